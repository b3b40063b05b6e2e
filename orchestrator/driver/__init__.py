"""One driver's attempt at a run: its session, the loop over teacher and students, the pipeline."""
