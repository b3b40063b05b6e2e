"""Ranks as one model, and what is done when one of them fails."""
