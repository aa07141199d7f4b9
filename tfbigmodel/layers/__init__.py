"""Keras layers that several chapters use, or that Keras does not have."""
