"""Who may call the ingress, and how much.

It owns the check of API keys and their rate limits. It may import `dataplane.snapshot` and
`dataplane.openai`.
"""
