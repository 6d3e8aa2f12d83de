"""What a request costs in tokens, for the keys that have a limit of them.

It owns the rules for counting: from the engine's own usage, which is asked for where the caller did
not, or else by estimates. It may import `dataplane.ingress.bodies` and `dataplane.openai`. Pure,
but for `dataplane.ingress.tokens.request_meter`, which sees the bodies that the ingress has read.
"""
