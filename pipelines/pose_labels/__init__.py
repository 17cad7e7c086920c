"""Manual pose labels: read, learned from, measured against; and poses repaired in time."""
