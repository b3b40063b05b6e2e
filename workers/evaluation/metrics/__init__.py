"""Numbers about models out of sums and of answers, with their intervals. Pure NumPy."""
