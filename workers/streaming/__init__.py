"""Large models in little memory: read from their files layer by layer, and run one layer at a time."""
