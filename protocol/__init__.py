"""What the planes and the client must do alike: names, rules, digests, keys and addresses.

It owns the single definition of each, so that all parts accept and compute the same. Pure, but for
`protocol.transport`. It may import the generated `broadsheet.v1` and nothing else of this project.
"""
