"""OpenAI HTTP: decides each request from the snapshot in memory, and forwards it to an engine.

It owns a request from its first byte to its last. A request passes `app` (HTTP), `inference`,
`access` (API keys), `choices` and `routing` (where it goes), `admission` (whether it may go now)
and `upstream` (the connection to the engine replica). It may import `dataplane.relay`,
`dataplane.snapshot`, `dataplane.openai`, `dataplane.settings`, `dataplane.logs` and `protocol`.
"""
