"""Questions with known answers: read, asked of a model, marked."""
