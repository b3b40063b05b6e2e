"""From dense distributions to sparse targets."""
