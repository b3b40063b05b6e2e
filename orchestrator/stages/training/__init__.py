"""Training: who may take a place when, what its workers are given, and who looks after them."""
