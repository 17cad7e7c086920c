"""Scoring one video in one process: extraction, models, warnings, pictures and the page."""
