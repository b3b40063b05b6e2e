"""Growing answers in slots, and scoring given ones, in batches."""
