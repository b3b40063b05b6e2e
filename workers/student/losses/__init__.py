"""Divergences and the fused head."""
