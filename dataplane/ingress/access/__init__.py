"""Who may call the ingress, and how much.

It owns the check of API keys, their rate limits, and what each caller may hold. It may import
`dataplane.snapshot`, `dataplane.openai` and `protocol`.
"""
