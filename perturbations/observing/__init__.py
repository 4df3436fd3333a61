"""What the sky, the telescope and the exposure time do to an image."""
