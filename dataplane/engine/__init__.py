"""Engine replicas: vLLM or the simulated engine in a Ray Serve replica, with adapters on demand.

It owns what runs inside a replica. It may import `dataplane.relay` and `dataplane.openai`; vLLM
only in its package `vllm`.
"""
