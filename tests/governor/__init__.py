"""What the governor decides, as operators see it."""
