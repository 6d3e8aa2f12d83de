"""Waves: which snapshot each data plane may get, and when the next wave begins.

It owns the state of the fleet's rollout and the rules by which it moves (`machine.py`), and what
this process knows of it (`waves.py`). `controlplane.upkeep.waves` makes the moves. It may import
`controlplane.fleet.data_plane`, `controlplane.fleet.state`, `controlplane.store.fleet`,
`controlplane.catalog`, `controlplane.errors` and `protocol`.
"""
