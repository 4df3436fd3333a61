"""Rules that a run must keep, and the verdict on them."""
