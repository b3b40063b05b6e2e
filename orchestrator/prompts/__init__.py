"""From prompt sources to frozen units: reading, policy, duplicates, tokenizing."""
