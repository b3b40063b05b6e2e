"""How faithful a student is to its teacher, on held-out text with exact teacher distributions."""
