"""Which engine arguments a model may have. Pure.

Broadsheet starts the engine, so it sets some of the flags itself. The names are those of
`vllm serve` in vLLM 0.32 (vllm/entrypoints/launchers/cli_args.py). Other arguments are passed on:
only the engine knows whether it accepts them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

from google.protobuf import struct_pb2

from protocol.validation import FieldViolation, shorten

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}(\.[A-Za-z0-9_.-]{1,128})?")
"""A flag without leading dashes. `hf_overrides.rope_scaling` sets a key of a flag with JSON."""

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


def normalised(args: struct_pb2.Struct) -> struct_pb2.Struct:
    """`args` with `_` for `-` in the name of each flag, so that a flag has a single spelling."""
    result = struct_pb2.Struct()
    for key, value in args.fields.items():
        result.fields[_spelling(key)].CopyFrom(value)
    return result


def _spelling(key: str) -> str:
    flag, dot, rest = key.partition(".")
    return flag.replace("-", "_") + dot + rest


def reserved(args: struct_pb2.Struct) -> tuple[FieldViolation, ...]:
    """A violation for each argument that Broadsheet sets itself."""
    violations = []
    for key in sorted(args.fields):
        flag = _spelling(key).partition(".")[0].lower()
        owner = _reserved_flag(flag.removeprefix("no_"))
        if owner is not None:
            abbreviates = "" if flag in (owner, f"no_{owner}") else f" (short for {owner})"
            violations.append(
                FieldViolation(field=path(key), description=f"not allowed{abbreviates}: {RESERVED[owner]}")
            )
    return tuple(violations)


def _reserved_flag(flag: str) -> str | None:
    # vLLM's parser accepts unambiguous abbreviations, so `por` would set the port.
    if flag in RESERVED:
        return flag
    return next((name for name in RESERVED if name.startswith(flag)), None)


def malformed(args: struct_pb2.Struct) -> tuple[FieldViolation, ...]:
    """A violation for each argument that cannot be passed to any engine."""
    violations = []
    seen: dict[str, str] = {}
    for key in sorted(args.fields):
        if _NAME.fullmatch(key) is None:
            description = f"got {shorten(key)}: an argument is a flag of the engine without dashes in front"
            violations.append(FieldViolation(field=path(key), description=description))
            continue
        first = seen.setdefault(_spelling(key), key)
        if first != key:
            violations.append(FieldViolation(field=path(key), description=f"the same argument as {first!r}"))
        elif not _is_json(args.fields[key]):
            description = "null, NaN and infinity are no values of an argument; leave it out"
            violations.append(FieldViolation(field=path(key), description=description))
    return tuple(violations)


def _is_json(value: struct_pb2.Value, *, nested: bool = False) -> bool:
    match value.WhichOneof("kind"):
        case "number_value":
            return math.isfinite(value.number_value)
        case "string_value" | "bool_value":
            return True
        case "struct_value":
            return all(_is_json(item, nested=True) for item in value.struct_value.fields.values())
        case "list_value":
            return all(_is_json(item, nested=True) for item in value.list_value.values)
        case _:
            # Inside a JSON value null is valid: `{"rope_scaling": null}` removes a setting.
            return nested


def path(key: str) -> str:
    """Field path of an argument in a registration request."""
    return f'spec.engine.args["{key}"]'
