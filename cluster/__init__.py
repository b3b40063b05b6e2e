"""What the run stands on: the Ray session, nodes, placement, storage and job submission.

Nothing here knows about distillation. `orchestrator` and `workers` may import this package; it imports neither.
"""
