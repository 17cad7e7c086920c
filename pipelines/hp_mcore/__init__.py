"""HP-MCoRe on tables of the store: training, scoring, evaluation, and predictors that see no video."""
