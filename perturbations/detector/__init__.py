"""What detectors do to an image, visit by visit."""
