"""Which engine arguments are not for publishers of models. Pure.

Broadsheet starts the engine, so it sets some of the flags itself. The names are those of
`vllm serve` in vLLM 0.32 (vllm/entrypoints/launchers/cli_args.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_LISTENING = "Broadsheet decides where an engine listens and who may call it"
_LORA = "use spec.lora"
_PARALLEL = "use spec.resources"
_SLEEP = "use spec.scaling.idle"
_ONE_ENGINE = "a replica is one engine; use spec.scaling for more"

RESERVED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("model", "model_tag", "revision"), "use spec.source"),
        "served_model_name": "use served_name",
        **dict.fromkeys(("config", "help"), "write each argument into spec.engine.args"),
        **dict.fromkeys(
            (
                "host",
                "port",
                "uds",
                "grpc",
                "grpc_port",
                "root_path",
                "middleware",
                "api_key",
                "allow_credentials",
                "allowed_origins",
                "allowed_methods",
                "allowed_headers",
                "ssl_keyfile",
                "ssl_certfile",
                "ssl_ca_certs",
                "ssl_cert_reqs",
                "ssl_ciphers",
                "enable_ssl_refresh",
            ),
            _LISTENING,
        ),
        **dict.fromkeys(
            (
                "enable_lora",
                "lora_modules",
                "max_loras",
                "max_lora_rank",
                "max_cpu_loras",
                "default_mm_loras",
            ),
            _LORA,
        ),
        **dict.fromkeys(("tensor_parallel_size", "pipeline_parallel_size"), _PARALLEL),
        "enable_sleep_mode": _SLEEP,
        **dict.fromkeys(
            (
                "headless",
                "api_server_count",
                "nnodes",
                "node_rank",
                "master_addr",
                "master_port",
                "data_parallel_size",
                "data_parallel_size_local",
                "data_parallel_rank",
                "data_parallel_start_rank",
                "data_parallel_address",
                "data_parallel_rpc_port",
                "data_parallel_backend",
                "data_parallel_hybrid_lb",
                "data_parallel_external_lb",
                "data_parallel_multi_port_external_lb",
                "data_parallel_supervisor_port",
                "enable_elastic_ep",
                "elastic_ep_max_dp_size",
            ),
            _ONE_ENGINE,
        ),
        "hf_token": "specs are no place for secrets; set HF_TOKEN where the data plane runs",
    }
)
"""Advice for each argument that Broadsheet sets itself."""
