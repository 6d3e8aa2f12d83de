"""Records what is known of each running application. Pure.

It owns that state: nothing else of the agent remembers anything about an application. Observations
and the agent's own steps go in; a query gives an immutable value and changes nothing. It may import
the pure modules of `dataplane.agent`, `dataplane.relay.messages`, `dataplane.snapshot`, and the
generated messages.
"""
