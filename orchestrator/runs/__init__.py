"""The folder of a run: its keys, its identity, its events, and how it fails."""
