"""Training and evaluation of HP-MCoRe on tables of the store."""
