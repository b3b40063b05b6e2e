"""The models that are scored: where they come from, and those that are made of the teacher."""
