"""What commands that look at a run print: stores, texts, answers, runs side by side."""
