"""What ingress and engine share about OpenAI HTTP: ASGI, error bodies, routes, and the names on the
wire.

It owns the wire between ingress and engine. It may import `protocol` and nothing else of the data
plane.
"""
