"""A student: a dense model that learns one mix of domains from the target store, with Ray Train and DeepSpeed."""
