"""Who is told of a run's events: the console, a JSONL log."""
