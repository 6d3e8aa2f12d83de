"""Requests to engine replicas: one is sent, and its answer is read as it comes.

A small HTTP/1.1 client over httptools: `client` sends a request, `pool` keeps connections,
`connection` is one of them, `answer_parser` reads what comes on it, `answer` is what a request's
task has of it, and `headers` says what passes in either direction. It owns connections to engine
replicas. It may import `dataplane.ingress.bodies`, `dataplane.ingress.engine_trust`,
`dataplane.ingress.limits`, `dataplane.openai` and `dataplane.snapshot`.
"""
