"""Hostile clients against real processes, while a well-behaved neighbour is served."""
