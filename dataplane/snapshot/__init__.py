"""The immutable view of a snapshot, and everything that is checked before it is used.

It owns what a data plane holds: entries, indexes, quarantine, and what was made of each model.
Pure. It may import `dataplane.openai.errors` and `protocol`.
"""
