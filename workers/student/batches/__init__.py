"""From rows of the store to packed micro-batches."""
