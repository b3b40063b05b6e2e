"""What runs a teacher's model: transformers, or vLLM."""
