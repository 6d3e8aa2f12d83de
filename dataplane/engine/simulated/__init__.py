"""The SIMULATED engine: an OpenAI-compatible app that computes nothing.

It owns its settings, its answers and its failure modes. It may import `dataplane.openai` and
`dataplane.errors`.
"""
