"""A student tried before money is spent on its teacher: built without weights, and stepped once at a small size."""
