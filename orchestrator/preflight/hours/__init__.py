"""Rooms of the plan: how long parts take by what hardware can do or a run measured, one after another, and what it
costs."""
