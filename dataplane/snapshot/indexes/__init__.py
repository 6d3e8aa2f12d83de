"""The indexes of a snapshot: built over all its messages, and edited for a change.

It owns what follows from entries: served names, deployable models, revisions, keys by hash. Whether
an entry may be served was decided before (`accept`, `changes`).
"""
