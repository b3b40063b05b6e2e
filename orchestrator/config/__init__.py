"""What a run is configured with: the schema of its YAML, reading it, and the students that it asks for."""
