"""Data as a person reads it: tables, Markdown, model cards."""
