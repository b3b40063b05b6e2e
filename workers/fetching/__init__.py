"""Models that are named by where they lie: a folder, an s3:// folder, an id of the Hugging Face Hub. What each is, and
how it comes onto a node, once."""
