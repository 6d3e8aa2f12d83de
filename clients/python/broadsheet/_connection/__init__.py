"""How both clients talk to the control plane: channels, deadlines, retries, paging, errors.

Owns the channel and the stubs of a client, and everything that happens on every call. May import
gRPC, the generated `broadsheet.v1`, `broadsheet.errors` and `protocol`.
"""
