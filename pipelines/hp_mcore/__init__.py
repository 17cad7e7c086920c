"""Training, inference and evaluation of HP-MCoRe on the rows of the store."""
