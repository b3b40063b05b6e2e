"""What models do on the teacher's held-out text, position by position, beside its exact distributions."""
