"""How agent, ingress replicas and engine replicas tell each other what they have.

It owns the relay actor and the messages that go through it. It may import `dataplane.snapshot` and
Ray.
"""
