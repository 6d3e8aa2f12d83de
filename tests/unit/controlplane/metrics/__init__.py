"""Tests of the control plane's metrics."""
