"""Prompt sources as people have them, each row brought into one form. FORMATS.md is the table."""
