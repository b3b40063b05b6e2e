"""Bridge tokens: those that a teacher is sure of and that its answer hangs on, and what students do there."""
