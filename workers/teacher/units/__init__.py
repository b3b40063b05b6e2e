"""A unit of prompts: captured, selected, committed."""
