"""How the agent, the ingress replicas and the engine replicas exchange state and messages.

It owns the relay: a Ray actor (`actor`) around a pure core (`state`, `mailbox`, `waiting`), its
client (`relay`), the topics and who may write them (`topics`), and the values and messages that go
through it (`messages`). It may import `dataplane.snapshot` and Ray.
"""
