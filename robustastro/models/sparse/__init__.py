"""Exact inference on "this image with these pixels changed": only what the change reaches is computed again."""
