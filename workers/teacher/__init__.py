"""The teacher: an engine runs the model, a gang makes ranks one model, a replica teaches units with a gang."""
