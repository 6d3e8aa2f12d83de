"""OpenAI HTTP: decides every request from the snapshot in memory, and forwards it to an engine
replica.

It owns requests from their first byte to their last. It may import `dataplane.relay`,
`dataplane.snapshot` and `dataplane.openai`.
"""
