"""The credential that a data plane gets by enrolment.

`kept.py` has it on disk, `credential.py` gets it. It may import what `dataplane.sync` may.
"""
