"""One request on an HTTP/1 connection, and its response.

It owns uvicorn's protocol with less work for each request (`protocol`), what the app receives and
sends (`cycle`), the bytes of a response (`response`), and the ids of requests. It has no bounds:
those are in `dataplane.openai.http_protocol`. It may import `dataplane.openai.asgi`.
"""
