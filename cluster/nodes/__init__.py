"""Nodes of a cluster: as they come and leave, and those of one that is not there yet, with what finds room on them."""
