"""Tests that share one SmolLM2, which runs from the first test to the last."""
