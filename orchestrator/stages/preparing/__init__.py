"""What must be there before teacher and students start: frozen prompts, heads, initial weights."""
