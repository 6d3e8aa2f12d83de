"""From samples to what is shown: arithmetic, what is wanted, tables, a file and a plot.

Only `report` does I/O.
"""
