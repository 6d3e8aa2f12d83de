"""What both planes and the client have to do alike: names, rules, digests, keys and addresses.

It owns the one definition of each, so that what one part accepts or computes no other part
disputes. Pure, but for `protocol.transport`. It may import the generated `broadsheet.v1` and
nothing else of this project.
"""
