"""Tasks of lm-evaluation-harness: found before a run, asked of models that are loaded, kept as files."""
