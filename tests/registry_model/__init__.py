"""What the registry promises, as a small model of it without a database. Pure.

`state.Registry` is a value. `after.after` gives the answer to a call and the registry afterwards;
there is one module for the methods of each resource. The model knows nothing of databases,
transactions or other callers. `tests/contract/test_registry_states.py` shows that calls at the same
time, some of them cut off, can be explained by this model one after the other; `after.after_all`
looks for such an order.

Left out: purging, retention, ranks of adapters, and requests that are invalid whatever the registry
holds.
"""
