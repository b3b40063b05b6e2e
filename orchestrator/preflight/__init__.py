"""What is checked and planned before a model is loaded or Ray starts."""
