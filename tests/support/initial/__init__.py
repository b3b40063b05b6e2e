"""Initial weights for tests: of one student, and of a mixture that is whole in memory."""
