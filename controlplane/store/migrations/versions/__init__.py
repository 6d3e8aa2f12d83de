"""One module per migration, named `{number}_{what}.py`."""
