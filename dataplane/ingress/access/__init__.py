"""Who may call the ingress, and how much.

It owns the check of API keys and their rate limits. It may import `dataplane.snapshot`,
`dataplane.openai` and `protocol`.
"""
