"""What a pipeline does to an image between the archive and the network."""
