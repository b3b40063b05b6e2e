"""Pages that the program writes, in a browser."""
