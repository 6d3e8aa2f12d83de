"""Request bodies: read within bounds, scanned once, and changed without a copy.

It owns what the ingress knows of a body, and the edits that a body gets on its way to an engine. It
may import `dataplane.openai`. Pure, but for `dataplane.ingress.bodies.reading`.
"""
