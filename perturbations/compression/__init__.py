"""What storing an image in fewer bits does to it."""
