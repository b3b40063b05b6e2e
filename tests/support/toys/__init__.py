"""Models that follow a rule, whose right measurements are known."""
