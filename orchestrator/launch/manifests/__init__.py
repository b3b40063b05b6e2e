"""Files that bring up a cluster sized for a run: its groups of nodes, what they cannot have, templates."""
