"""How a response's body is written, and what the ingress itself writes into a stream of events.

It owns the way of an engine's answer to its caller, the comments that keep proxies from giving up
while a request waits, and the errors that follow them. It may import `dataplane.ingress.bodies`,
`dataplane.ingress.request_context`, `dataplane.ingress.tokens`, `dataplane.ingress.upstream` and
`dataplane.openai`.
"""
