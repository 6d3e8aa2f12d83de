"""vLLM in an engine replica.

It owns all that depends on vLLM's internals (0.32). vLLM is imported inside functions: that takes
ten seconds, and only replicas of kind VLLM need it. It may import `dataplane.openai` and, of
`dataplane.engine`, the modules that know no engine (`app`, `front_ends`, `out_of_memory`).
"""
