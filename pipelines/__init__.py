"""Orchestration: verbs, rows, Ray, tracking. Importing this package imports nothing heavy."""

__version__ = "0.1.0"
