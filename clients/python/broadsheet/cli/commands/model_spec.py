"""A whole model as flags: the groups of options of `broadsheet model register`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from broadsheet import specs
from broadsheet.cli.options import LabelOption, without_empty
from broadsheet.cli.pairs import key_values, parse_label


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Where the weights come from."""

    source: Annotated[
        str | None, typer.Option(metavar="DIR_OR_URI", help="Weights: a directory, file:///… or hf://org/name.")
    ] = None
    source_revision: Annotated[
        str | None, typer.Option(metavar="REV", help="Branch, tag or commit of an hf:// source.")
    ] = None

    def fields(self) -> dict[str, object]:
        """The fields of `Source`."""
        return {"uri": self.source, "revision": self.source_revision}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The engine that runs the model."""

    engine: Annotated[str | None, typer.Option(metavar="KIND", help="VLLM or SIMULATED. Default: VLLM.")] = None
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Engine argument, such as max_model_len=2048. Repeatable."),
    ] = None

    def fields(self) -> dict[str, object]:
        """The fields of `Engine`."""
        return {"kind": self.engine, "args": key_values(self.engine_arg, "--engine-arg", specs.parse_argument)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingOptions:
    """How many replicas run."""

    min_replicas: Annotated[int | None, typer.Option(help="Replicas kept at all times. Default: 0.")] = None
    max_replicas: Annotated[int | None, typer.Option(help="Replicas at most. Default: 1, or --min-replicas.")] = None
    idle_after: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Idle time before the last replica goes. Default: 300s.")
    ] = None

    def fields(self) -> dict[str, object]:
        """The fields of `Scaling`."""
        return {
            "min_replicas": self.min_replicas,
            "max_replicas": self.max_replicas,
            "downscale_to_zero_delay": self.idle_after,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourcesOptions:
    """What one replica needs."""

    cpus: Annotated[float | None, typer.Option(help="CPUs of one replica. Default: 1.")] = None
    accelerators: Annotated[int | None, typer.Option(help="Accelerators of one replica. Default: 0, the CPU.")] = None
    accelerator_type: Annotated[str | None, typer.Option(help="Such as H100. Default: any.")] = None
    tensor_parallel_size: Annotated[int | None, typer.Option(help="Tensor parallelism. Default: 1.")] = None

    def fields(self) -> dict[str, object]:
        """The fields of `Resources`."""
        return {
            "cpus": self.cpus,
            "accelerators": self.accelerators,
            "accelerator_type": self.accelerator_type,
            "tensor_parallel_size": self.tensor_parallel_size,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOptions:
    """Which LoRA adapters the model takes."""

    lora_max_rank: Annotated[int | None, typer.Option(help="Take LoRA adapters up to this rank.")] = None
    lora_max_adapters: Annotated[int | None, typer.Option(help="Adapters that a replica holds ready.")] = None

    def fields(self) -> dict[str, object]:
        """The fields of `Lora`."""
        return {"max_rank": self.lora_max_rank, "max_adapters": self.lora_max_adapters}


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutOptions:
    """How a changed spec replaces the old one."""

    canary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PERCENT[:HOLD]",
            help="Roll a changed spec out in steps: this share of requests, held so long. Repeatable.",
        ),
    ] = None
    replace_cold: Annotated[
        bool,
        typer.Option("--replace-cold", help="Put a changed spec in place before it has started: no room for both."),
    ] = False

    def fields(self) -> dict[str, object]:
        """The fields of `RolloutPolicy`; empty without either flag.

        Raises:
            typer.BadParameter: Both flags are given, or a step is not PERCENT[:HOLD].
        """
        if self.canary and self.replace_cold:
            raise typer.BadParameter("leave out one of the two", param_hint="--canary --replace-cold")
        if self.replace_cold:
            return {"strategy": "REPLACE", "require_warm": False}
        if not self.canary:
            return {}
        return {"strategy": "CANARY", "steps": [_canary_step(text) for text in self.canary]}


def _canary_step(text: str) -> dict[str, object]:
    percent, colon, hold = text.partition(":")
    if not percent.isdecimal():
        raise typer.BadParameter(f"got {text!r}; expected PERCENT or PERCENT:HOLD, as 5:10m", param_hint="--canary")
    return {"percent": int(percent), **({"hold": hold} if colon else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The whole model."""

    source: SourceOptions
    served_name: Annotated[str | None, typer.Option(help="Name for callers. Default: the id.")] = None
    engine: EngineOptions
    scaling: ScalingOptions
    resources: ResourcesOptions
    lora: LoraOptions
    rollout: RolloutOptions
    label: LabelOption = None

    def fields(self) -> dict[str, object]:
        """The fields of `RegisterModelRequest` that the flags give.

        Raises:
            typer.BadParameter: A flag cannot be read.
        """
        return without_empty(
            {
                "served_name": self.served_name,
                "spec": {
                    "source": self.source.fields(),
                    "engine": self.engine.fields(),
                    "resources": self.resources.fields(),
                    "scaling": self.scaling.fields(),
                    "lora": self.lora.fields(),
                },
                "rollout_policy": self.rollout.fields(),
                "labels": key_values(self.label, "--label", parse_label),
            }
        )
