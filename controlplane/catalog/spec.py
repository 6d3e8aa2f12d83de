"""Model specs: their defaults, and the checks that the rules in the proto cannot state. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from google.protobuf import duration_pb2

from broadsheet.v1 import model_pb2
from controlplane import errors
from controlplane.catalog import engine_args
from protocol import sources
from protocol.engine_args import ALL
from protocol.validation import FieldViolation, shorten

TARGET_ONGOING_REQUESTS = 16.0
UPSCALE_DELAY_S = 10
DOWNSCALE_DELAY_S = 120
DOWNSCALE_TO_ZERO_DELAY_S = 300
MAX_ONGOING_REQUESTS = 1024
"""vLLM's default for sequences in one batch (`max_num_seqs`) on large accelerators. An engine with
room for fewer lets the others wait itself."""
MAX_QUEUED_REQUESTS = 1000
QUEUE_TIMEOUT_S = 30
COLD_START_TIMEOUT_S = 600
MAX_ADAPTERS = 4
MAX_RANK = 16


def resolved(spec: model_pb2.ModelSpec, allowed_engine_args: Collection[str] = (ALL,)) -> model_pb2.ModelSpec:
    """A copy of `spec` with every default filled in, as it is stored, compared and pushed.

    Args:
        spec: Already checked by the rules in its proto.
        allowed_engine_args: Privileged engine arguments that publishers may set; `*`: all.

    Raises:
        errors.InvalidArgument: Fields contradict each other, or an engine argument is reserved or
            not allowed.
    """
    result = model_pb2.ModelSpec()
    result.CopyFrom(spec)
    # A newer client may send fields that this release does not know. They would be pushed without
    # any effect.
    result.DiscardUnknownFields()
    if result.engine.kind == model_pb2.Engine.KIND_UNSPECIFIED:
        result.engine.kind = model_pb2.Engine.KIND_VLLM
    _fill_resources(result)
    _fill_scaling(result.scaling)
    _fill_admission(result.admission)
    if result.HasField("lora"):
        _fill_lora(result.lora)
    _check(result, allowed_engine_args)
    result.engine.args.CopyFrom(engine_args.normalised(result.engine.args))
    return result


def _check(spec: model_pb2.ModelSpec, allowed_engine_args: Collection[str]) -> None:
    violations = (
        *_source(spec),
        *_resources(spec.resources),
        *_scaling(spec),
        *engine_args.malformed(spec.engine.args),
    )
    if violations:
        raise errors.InvalidArgument.of_fields(violations)
    if spec.engine.kind != model_pb2.Engine.KIND_VLLM:
        return
    if reserved := engine_args.reserved(spec.engine.args):
        raise errors.InvalidArgument.of_fields(reserved, errors.Reason.ENGINE_ARGUMENT_RESERVED)
    if not_allowed := engine_args.not_allowed(spec.engine.args, allowed_engine_args):
        raise errors.InvalidArgument.of_fields(not_allowed, errors.Reason.ENGINE_ARGUMENT_NOT_ALLOWED)


def _source(spec: model_pb2.ModelSpec) -> Iterator[FieldViolation]:
    if not spec.HasField("source"):
        if spec.engine.kind != model_pb2.Engine.KIND_SIMULATED:
            yield FieldViolation(field="spec.source", description="needed by every engine kind but SIMULATED")
        return
    yield from source_violations(spec.source, "spec.source")


def source_violations(source: model_pb2.Source, field: str) -> Iterator[FieldViolation]:
    """Violations of a source that the rules in the proto do not find.

    Args:
        source: The source.
        field: Its path in the request.
    """
    if not sources.is_file(source.uri):
        return
    try:
        sources.file_path(source.uri)
    except ValueError as error:
        yield FieldViolation(field=f"{field}.uri", description=f"got {shorten(source.uri)}: {error}")
    if source.revision:
        description = f"got {shorten(source.revision)}: only hf:// sources have revisions"
        yield FieldViolation(field=f"{field}.revision", description=description)


def _resources(resources: model_pb2.Resources) -> Iterator[FieldViolation]:
    product = resources.tensor_parallel_size * resources.pipeline_parallel_size
    if resources.accelerators not in (0, product):
        yield FieldViolation(
            field="spec.resources.accelerators",
            description=(
                f"got {resources.accelerators}: must be 0 (runs on the CPU) or {product}, the product of "
                f"tensor_parallel_size ({resources.tensor_parallel_size}) and pipeline_parallel_size "
                f"({resources.pipeline_parallel_size})"
            ),
        )
    if resources.accelerator_type and resources.accelerators == 0:
        yield FieldViolation(
            field="spec.resources.accelerator_type",
            description=f"got {shorten(resources.accelerator_type)}: needs accelerators of at least 1",
        )


def _scaling(spec: model_pb2.ModelSpec) -> Iterator[FieldViolation]:
    scaling = spec.scaling
    if scaling.idle == model_pb2.Scaling.IDLE_SLEEP and not _can_sleep(spec):
        yield FieldViolation(
            field="spec.scaling.idle",
            description=(
                "got SLEEP: vLLM sleeps on accelerators only (spec.resources.accelerators is 0); allowed here: ZERO"
            ),
        )
    if scaling.initial_replicas < scaling.min_replicas:
        yield FieldViolation(
            field="spec.scaling.initial_replicas",
            description=f"got {scaling.initial_replicas}: must be at least min_replicas ({scaling.min_replicas})",
        )


def _can_sleep(spec: model_pb2.ModelSpec) -> bool:
    return spec.engine.kind == model_pb2.Engine.KIND_SIMULATED or spec.resources.accelerators > 0


def _fill_resources(spec: model_pb2.ModelSpec) -> None:
    resources = spec.resources
    if not resources.HasField("cpus"):
        resources.cpus = 0.0 if spec.engine.kind == model_pb2.Engine.KIND_SIMULATED else 1.0
    if not resources.HasField("tensor_parallel_size"):
        resources.tensor_parallel_size = 1
    if not resources.HasField("pipeline_parallel_size"):
        resources.pipeline_parallel_size = 1


def _fill_scaling(scaling: model_pb2.Scaling) -> None:
    if scaling.idle == model_pb2.Scaling.IDLE_ZERO:
        # The default has a single form: stating it and leaving it out make the same revision.
        scaling.ClearField("idle")
    if not scaling.HasField("max_replicas"):
        scaling.max_replicas = max(1, scaling.min_replicas)
    if not scaling.HasField("initial_replicas"):
        scaling.initial_replicas = max(1, scaling.min_replicas)
    if not scaling.HasField("target_ongoing_requests"):
        scaling.target_ongoing_requests = TARGET_ONGOING_REQUESTS
    if not scaling.HasField("upscale_delay"):
        scaling.upscale_delay.CopyFrom(_seconds(UPSCALE_DELAY_S))
    if not scaling.HasField("downscale_delay"):
        scaling.downscale_delay.CopyFrom(_seconds(DOWNSCALE_DELAY_S))
    if not scaling.HasField("downscale_to_zero_delay"):
        scaling.downscale_to_zero_delay.CopyFrom(_seconds(DOWNSCALE_TO_ZERO_DELAY_S))


def _fill_admission(admission: model_pb2.Admission) -> None:
    if not admission.HasField("max_ongoing_requests"):
        admission.max_ongoing_requests = MAX_ONGOING_REQUESTS
    if not admission.HasField("max_queued_requests"):
        admission.max_queued_requests = MAX_QUEUED_REQUESTS
    if not admission.HasField("queue_timeout"):
        admission.queue_timeout.CopyFrom(_seconds(QUEUE_TIMEOUT_S))
    if not admission.HasField("cold_start_timeout"):
        admission.cold_start_timeout.CopyFrom(_seconds(COLD_START_TIMEOUT_S))


def _fill_lora(lora: model_pb2.Lora) -> None:
    if not lora.HasField("max_adapters"):
        lora.max_adapters = MAX_ADAPTERS
    if not lora.HasField("max_rank"):
        lora.max_rank = MAX_RANK


def _seconds(seconds: int) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=seconds)
