"""Turning a trained specialist into something that others load."""
