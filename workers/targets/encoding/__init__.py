"""What a unit's targets are as arrays, and as bytes."""
