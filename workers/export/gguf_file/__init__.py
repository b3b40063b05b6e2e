"""GGUF, the file of llama.cpp and ollama: one file with weights, settings, tokenizer and chat template."""
