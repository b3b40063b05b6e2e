"""Looking at runs from any machine that reaches their storage: how one stands, what it said, which there are."""
