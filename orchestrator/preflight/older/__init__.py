"""What must hold of an older generation that a run goes on from."""
