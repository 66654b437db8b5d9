"""The commands, by what they are about. Each module has `add(app)`."""
