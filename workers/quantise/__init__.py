"""The numbers that quantised weights are rounded to, the same in training, evaluation and export."""
