"""Compares ways to reach an engine: asked directly, through peers, and through the ingress.

`make bench-ingress` runs `__main__`; `make bench-soak` runs `soak`. docs/ingress-benchmark.md says
what is measured and how to read it. It owns the plan of cases (`plan`, pure), what the mock engine
answers (`answers`, pure), the programs that answer (`served`), the paths that are compared
(`subjects`), the load (`wrk`, `rounds`), what is shown of it (`shown`), and the comparison of a
snapshot that changes with one that does not (`changes`). It may import the data plane and the
tests' builders of catalogs.
"""
