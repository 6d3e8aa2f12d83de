"""What the control plane counts, and the HTTP endpoint that shows it.

Owns the names, labels and meaning of all metrics of the control plane. Those that measure get a
`Metrics` and call it. It imports nothing of the control plane but its errors. No label has values
that grow with the catalog or the fleet.
"""
