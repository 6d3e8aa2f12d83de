"""`GET /v1/models`: the list, its pages, and single models.

It owns the bodies of these answers. It may import `dataplane.snapshot`, `dataplane.openai` and
`protocol`.
"""
