"""Jobs of a Ray cluster: sending a command there, following its log, and which there are."""
