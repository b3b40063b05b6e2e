"""Rooms of the plan: targets and their bytes, totals, places on known nodes, remedies."""
