"""What ingress and engines share about HTTP: ASGI, OpenAI's errors, the routes, and their own wire.

It owns the wire between ingress and engine (`wire`, `adapter_names`), what a connection may cost
before its caller is known (`http_protocol`, `http_limits`), and requests on it (`exchange`). It may
import `protocol` and `broadsheet.v1`, and nothing else of the data plane.
"""
