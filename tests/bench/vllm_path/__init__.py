"""Real vLLM through Broadsheet, beside the same replica asked directly, `vllm serve` and a router.

`python -m tests.bench.vllm_path` runs it: on the CPU (`make bench-vllm`), and on an accelerator
(docs/gpu-benchmark.md). It owns the load, the subjects that are asked, and the report.
"""
