"""The angles expert on tables of the store: training, scoring, evaluation."""
