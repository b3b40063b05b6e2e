"""What a run took: who held which places for how long, and what that costs."""
