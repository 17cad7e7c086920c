"""Manual pose labels: reading them, fine-tuning a pose network on them, measuring it, repairing its output."""
