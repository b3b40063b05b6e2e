"""How far two right computations may differ."""
