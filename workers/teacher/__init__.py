"""The teacher: an engine runs the model, a worker group makes ranks one model, a replica captures units with a worker
group."""
