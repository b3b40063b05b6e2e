"""What makes a host wait for its device, counted on a CPU."""
