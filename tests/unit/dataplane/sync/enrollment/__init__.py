"""Tests of a data plane's enrolment."""
