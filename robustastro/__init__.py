"""What a model makes of perturbed galaxies: run it, measure it, draw it."""
