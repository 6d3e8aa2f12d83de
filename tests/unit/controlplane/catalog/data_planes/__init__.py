"""Tests of the rules about data planes."""
