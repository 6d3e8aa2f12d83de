"""What the ingress itself writes into a stream of events while a request waits.

It owns the comments that keep proxies from giving up, and the errors that follow them. It may
import `dataplane.ingress.bodies`, `dataplane.ingress.request_context` and `dataplane.openai`.
"""
