"""From rows of the store to packed micro-batches, made ahead of the device."""
