"""From one snapshot to the next by what differs, in time proportional to that.

It owns `accept_change`, which gives the snapshot that `accept` of all entries would give, or the
same rejection. It may import the other modules of `dataplane.snapshot`.
"""
