"""Collections that never change: an update makes another one, which shares nearly all with it.

It owns the sorted map that the indexes of a snapshot are. It imports the standard library only.
"""
