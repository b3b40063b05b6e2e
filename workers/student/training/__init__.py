"""The training loop of a worker, its engine and its steps."""
