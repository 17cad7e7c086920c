"""Built-in data: rendered athletes with known joints, transitions and scores."""
