"""The target store: what the teacher said, and the distributions it said it from. Written once."""
