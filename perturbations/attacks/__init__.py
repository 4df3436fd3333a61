"""Changes chosen to make a network err."""
