"""What an evaluation is made of: which models do what, as files that are made once and gathered."""
