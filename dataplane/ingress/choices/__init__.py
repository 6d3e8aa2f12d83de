"""What a request goes to, worked out once for each view where it is the same for all requests.

It owns what was worked out from the current view. It may import `dataplane.ingress.routing`, which
decides, `dataplane.snapshot` and `dataplane.openai`.
"""
