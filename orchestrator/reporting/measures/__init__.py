"""What was measured of specialists beyond scores on held-out text, as records: a module for each kind of measure."""
