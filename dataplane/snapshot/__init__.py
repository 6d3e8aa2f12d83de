"""The immutable view of a snapshot, and every check that is made before it is used.

It owns what a data plane holds in memory: entries, indexes, quarantines, and the activation of each
model. Pure: that holds for every module here. It may import `protocol` only.
"""
