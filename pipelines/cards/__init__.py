"""Pages that show what a step of a workflow did, each one file that needs nothing else."""
