"""Light of other things on the sky: what comes and goes, and what stands beside the galaxy."""
