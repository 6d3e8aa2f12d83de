"""What Prometheus reads of engine replicas, through the ingress.

It owns the pages that it has fetched, for a second. It may import `dataplane.ingress.upstream`,
`dataplane.snapshot` and `dataplane.openai`.
"""
