"""Looking at the target stores and models of a run."""
