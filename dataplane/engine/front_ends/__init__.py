"""Further front-end processes of an engine replica: tokenizer, HTTP and JSON on further cores.

The replica's process is a front end itself, and owns the others: it starts them, asks them, heals
them and ends them. They share its engine. Each has a port, and the engine's own OpenAI app behind
`dataplane.engine.app`. It knows no engine, and may import the modules of `dataplane.engine` that
know none either.
"""
