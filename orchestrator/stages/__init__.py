"""The stages of a run, each driven by a module: preparation, capture, training, evaluation, export."""
