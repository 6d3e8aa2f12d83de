"""Which request may use an engine replica now, which waits, and which is refused.

It owns the requests in flight and the queues of this ingress replica. It may import
`dataplane.ingress.routing`, `dataplane.ingress.choices`, `dataplane.ingress.view_holder`,
`dataplane.relay`, `dataplane.snapshot` and `dataplane.openai`.
"""
