"""The errors about an adapter's files. Pure."""

from __future__ import annotations

from controlplane import errors

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def refused(reason: errors.Reason, message: str) -> errors.InvalidArgument:
    """An error about the files at `source.uri`."""
    return errors.InvalidArgument.of_field("source.uri", message, reason)


def invalid_config(message: str) -> errors.InvalidArgument:
    """The configuration is damaged."""
    return refused(errors.Reason.ADAPTER_FILES_INVALID, f"{CONFIG_FILE}: {message}")


def invalid_weights(message: str) -> errors.InvalidArgument:
    """The tensors are damaged, or do not fit the configuration."""
    return refused(errors.Reason.ADAPTER_FILES_INVALID, f"{WEIGHTS_FILE}: {message}")


def unsupported_config(message: str) -> errors.InvalidArgument:
    """The configuration asks for something that the engine cannot do."""
    return refused(errors.Reason.ADAPTER_UNSUPPORTED, f"{CONFIG_FILE}: {message}")


def unsupported_weights(message: str) -> errors.InvalidArgument:
    """The engine cannot serve these tensors."""
    return refused(errors.Reason.ADAPTER_UNSUPPORTED, f"{WEIGHTS_FILE}: {message}")


def base_mismatch(message: str) -> errors.InvalidArgument:
    """The adapter was trained for another base model."""
    return refused(errors.Reason.ADAPTER_BASE_MISMATCH, message)
