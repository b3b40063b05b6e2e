"""The target store: what the teacher said and the distributions it said it from, written once, read by every student."""
