"""Pages about a run, a sweep or a store, each one HTML file that needs nothing else."""
