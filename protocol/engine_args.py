"""Which engine arguments are not for publishers of models. Pure.

Broadsheet starts the engine, so it sets some of the flags itself. Others run code, read files or
reach other hosts: they are privileged, and publishers may set only those that an operator allows.
The names are those of `vllm serve` in vLLM 0.32 (vllm/entrypoints/launchers/cli_args.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from google.protobuf import json_format, struct_pb2

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
        **dict.fromkeys(("tensor_parallel_size", "pipeline_parallel_size", "device_ids"), _PARALLEL),
        "enable_sleep_mode": _SLEEP,
        **dict.fromkeys(
            (
                "headless",
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

ALL = "*"
"""Allows every privileged argument."""

_CODE = "runs code of the publisher's choice"
_FILES = "reads or writes files"
_HOSTS = "connects the engine to other hosts"
_MODEL = "loads another model, from a source that nobody checks"
_UNREADABLE = "is JSON that cannot be read"
_CALLERS = "lets callers send what the engine trusts"

_PRIVILEGED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "trust_remote_code",
                "code_revision",
                "model_class_overrides",
                "logits_processors",
                "distributed_executor_backend",
                "additional_config",
                "speculative_config.code_revision",
                "compilation_config.backend",
                "compilation_config.inductor_passes",
                "compilation_config.inductor_compile_config",
            ),
            _CODE,
        ),
        **dict.fromkeys(
            (
                "chat_template",
                "generation_config",
                "logging_config",
                "model_loader_extra_config",
                "profiler_config",
                "ray_workers_use_nsight",
            ),
            _FILES,
        ),
        **dict.fromkeys(
            (
                "allowed_media_domains",
                "tool_server",
                "otlp_traces_endpoint",
                "kv_transfer_config",
                "kv_events_config",
                "ec_transfer_config",
                "weight_transfer_config",
            ),
            _HOSTS,
        ),
        **dict.fromkeys(
            (
                "tokenizer",
                "spec_model",
                "speculative_config.model",
                "speculative_config.draft_load_config",
                "speculative_config.draft_model_config",
                "speculative_config.draft_parallel_config",
                "speculative_config.target_model_config",
                "speculative_config.target_parallel_config",
            ),
            _MODEL,
        ),
        **dict.fromkeys(
            ("trust_request_chat_template", "trust_request_mm_kwargs", "enable_prompt_embeds", "enable_mm_embeds"),
            _CALLERS,
        ),
    }
)
"""Why an argument, or a key of one, is for operators. Dots lead into an argument's JSON."""

_PRIVILEGED_ENDINGS: Mapping[str, str] = MappingProxyType(
    {**dict.fromkeys(("_cls", "_plugin"), _CODE), **dict.fromkeys(("_path", "_dir", "_file"), _FILES)}
)
"""The same for every name and key that ends so: `worker_cls`, `kv_connector_module_path`, …"""

_HARMLESS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "generation_config": ("auto", "vllm"),
        "distributed_executor_backend": ("mp", "ray", "uni"),
        "compilation_config.backend": ("", "eager", "inductor"),
        "worker_cls": ("auto",),
    }
)
"""Values of privileged arguments that are anybody's."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_LOCAL = ("/", "./", "../", "~", "file:")
"""What the path of a local file begins with, where an argument may also have other text."""

_TEMPLATE = re.compile(r"[{}\n]")
"""vLLM takes a chat template with one of these for the template, and without for a file's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Privileged:
    """One argument that only an operator may let publishers set."""

    argument: str
    """Its key in the spec."""
    name: str
    """What to allow: `trust_remote_code`, `speculative_config.model`."""
    why: str
    """What it can do."""


def flag_of(key: str) -> str:
    """The flag that a key of the arguments sets, with `_` for `-`."""
    return key.partition(".")[0].replace("-", "_")


def allowed_name(text: str) -> str:
    """The name that an operator allows, with `_` for `-` in the flag.

    Raises:
        ValueError: It is neither `*` nor a name, or Broadsheet sets that argument itself.
    """
    if text != ALL and _NAME.fullmatch(text) is None:
        raise ValueError(f"got {text!r}, allowed is `*`, or an engine argument without dashes in front")
    flag = flag_of(text)
    if flag in RESERVED:
        raise ValueError(f"got {text!r}, which no publisher can be allowed to set: {RESERVED[flag]}")
    return flag + text[len(flag) :]


def privileged(args: struct_pb2.Struct, allowed: Collection[str]) -> Iterator[Privileged]:
    """Arguments that run code, read files or reach hosts, and that are not allowed.

    Args:
        args: Arguments of vLLM.
        allowed: Names that the operator allows. A flag allows what is below it; `*` allows all.
    """
    if ALL in allowed:
        return
    for key in sorted(args.fields):
        flag, value = flag_of(key), args.fields[key]
        negated = flag.startswith("no_")
        if value.WhichOneof("kind") == "bool_value" and value.bool_value == negated:
            continue  # it is switched off
        parts = (flag.removeprefix("no_"), *key.split(".")[1:])
        for name, why in _findings(parts, value):
            if not any(name == known or name.startswith(f"{known}.") for known in allowed):
                yield Privileged(argument=key, name=name, why=why)


def _findings(parts: tuple[str, ...], value: struct_pb2.Value) -> Iterator[tuple[str, str]]:
    """Names and reasons of what is privileged at this place of the arguments or below it."""
    for depth in range(1, len(parts) + 1):
        why = _why(".".join(parts[:depth]))
        if why is not None:
            if not (depth == len(parts) and _is_harmless(".".join(parts), value)):
                yield ".".join(parts[:depth]), why
            return
    match value.WhichOneof("kind"):
        case "struct_value":
            for key, item in value.struct_value.fields.items():
                yield from _findings((*parts, key), item)
        case "list_value":
            for item in value.list_value.values:
                yield from _findings(parts, item)
        case "string_value":
            yield from _findings_in_text(parts, value.string_value.strip())


def _findings_in_text(parts: tuple[str, ...], text: str) -> Iterator[tuple[str, str]]:
    if text.startswith(_LOCAL):
        yield ".".join(parts), _FILES
    if not text.startswith(("{", "[")):
        return
    # vLLM takes JSON as text, too.
    try:
        value = json_format.Parse(text, struct_pb2.Value())
    except (json_format.ParseError, RecursionError):
        yield ".".join(parts), _UNREADABLE
    else:
        yield from _findings(parts, value)


def _why(name: str) -> str | None:
    ending = next((why for ending, why in _PRIVILEGED_ENDINGS.items() if name.endswith(ending)), None)
    return _PRIVILEGED.get(name, ending)


def _is_harmless(name: str, value: struct_pb2.Value) -> bool:
    if value.WhichOneof("kind") != "string_value":
        return False
    if name == "chat_template":
        return _TEMPLATE.search(value.string_value) is not None
    return value.string_value in _HARMLESS.get(name, ())
