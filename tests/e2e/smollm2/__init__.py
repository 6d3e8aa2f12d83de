"""Tests that share one SmolLM2, which is running from the first of them to the last."""
