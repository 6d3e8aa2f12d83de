"""The rules about data planes that are kept in the registry's database. Pure.

`enrollment.py` has how they get credentials.
"""
