"""Checkpoints that outlive a kill, and go on with another number of workers."""
