"""How workers tell the driver what happens: events that are shown, and messages that steer."""
