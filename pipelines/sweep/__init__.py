"""Hyperparameter sweeps: what is tried, what a trial is, what came out."""
