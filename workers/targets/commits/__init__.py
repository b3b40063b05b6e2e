"""The log of what is committed, what is damaged, and what can be deleted."""
