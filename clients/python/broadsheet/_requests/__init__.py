"""Arguments of client methods, made into fields of requests.

Owns what both clients must do alike before a request is sent. May import `broadsheet.specs`, the
messages, and `protocol`; it knows neither gRPC nor the clients.
"""
