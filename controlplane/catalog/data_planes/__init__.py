"""The rules about data planes that are kept in the registry's database. Pure.

`enrollment.py` has how they get credentials, `history.py` which of their reports are kept.
"""
