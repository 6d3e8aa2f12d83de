"""Errors on the screen, without a traceback, and exit codes.

Exit codes: 0 done; 1 it failed; 2 wrong input or usage; 3 the control plane or data plane could not
be reached, or did not answer in time; 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from broadsheet.errors import (
    BroadsheetError,
    DeadlineExceeded,
    InvalidArgument,
    OutOfRange,
    ServingFailed,
    ServingTimeout,
    Unavailable,
    Unimplemented,
)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130

HINTS: Mapping[str, str] = {
    "INVALID_SPEC": "the fields are described in broadsheet.specs and protos/broadsheet/v1/*.proto",
    "UNSUPPORTED_SOURCE": "use a file:/// source",
    "SOURCE_NOT_ALLOWED": "move the files to a source that the operator allows, or ask for this source to be allowed",
    "ENGINE_ARGUMENT_NOT_ALLOWED": "leave the engine argument out, or ask the operator to allow it",
    "ADAPTER_SOURCE_MISSING": "the path must exist on the control plane's machine, and on the data planes'",
    "ADAPTER_SOURCE_UNREADABLE": "give the control plane permission to read the files",
    "ADAPTER_FILES_INVALID": "save the adapter again with PEFT",
    "ADAPTER_FILES_CHANGED": "try again when the files are completely written",
    "ADAPTER_RANK_TOO_HIGH": "register the model again with a higher --lora-max-rank",
    "ADAPTER_BASE_MISMATCH": "register the adapter under the model that it was trained for",
    "MODEL_TAKES_NO_ADAPTERS": "register the model again with --lora-max-rank",
    "MODEL_HAS_ADAPTERS": "delete them first, or add --force",
    "ALREADY_REGISTERED": "leave out --must-create to make a new revision of it",
    "STILL_DELETED": "broadsheet model undelete or adapter undelete brings it back; or choose another id",
    "NOT_DELETED": "there is nothing to undelete",
    "BASE_MODEL_DELETED": "broadsheet model undelete first",
    "ETAG_MISMATCH": "get it again, check what changed, and repeat with the new --etag",
    "INVALID_FILTER": "put the whole filter into quotes: --filter 'labels.env = prod AND NOT state = READY'",
    "INVALID_UPDATE_MASK": "name what to change, such as --served-name; model register states a whole model",
    "ADAPTERS_WOULD_NOT_FIT": "keep --lora-max-rank large enough, or first delete those adapters or change the routes",
    "REQUEST_ID_REUSED": "send a fresh UUID4 with each request",
    "MODEL_NOT_FOUND": "broadsheet model list shows what there is",
    "ADAPTER_NOT_FOUND": "broadsheet adapter list shows what there is",
    "DATA_PLANE_CONNECTED": "stop the data plane first, or add --force",
    "DATA_PLANE_NOT_FOUND": "broadsheet fleet list shows what there is",
    "REVISION_NOT_FOUND": "broadsheet snapshot list shows what there is",
    "SERVED_NAME_TAKEN": "choose another --served-name, or delete the one that has it",
    "API_KEY_NOT_FOUND": "broadsheet key list shows what there is",
    "API_KEY_EXISTS": "choose another id",
    "KEY_NOT_TRUSTED": "does --trusted-keys have what `broadsheet controlplane keys public` prints there?",
    "SIGNATURE_MISSING": "export it from a control plane that signs, or import it with --allow-unsigned",
    "WEIGHTS_MISSING": "leave out --weights if the files are at the same sources here",
    "TOKEN_MISSING": "give a token: --token, --token-file or $BROADSHEET_TOKEN; a control plane without "
    "configured tokens keeps one in admin_token in its data directory",
    "TOKEN_INVALID": "is the token complete, and for this control plane? --token, --token-file, $BROADSHEET_TOKEN",
    "TOKEN_EXPIRED": "get a new token",
    "CERTIFICATE_UNKNOWN": "ask the operator for a role for this certificate, or give a token",
    "PERMISSION_DENIED": "use credentials of a role that may do this, or ask the operator for them",
    "CONCURRENT_CHANGE": "look at what is there now, and try again",
    "ROLLBACK_TOO_LARGE": "broadsheet snapshot list shows revisions between",
    "PINNED_REVISION_GONE": "broadsheet snapshot diff shows what else differs; change that by hand",
    "STORE_UNAVAILABLE": "try again; if it persists, check the database and the disk of the control plane",
    "SHUTTING_DOWN": "try again in a moment",
}
"""Advice by reason, in terms of this command line, beyond what the messages already say."""


def exit_code(error: BroadsheetError) -> int:
    """The exit code for `error`."""
    if isinstance(error, InvalidArgument | OutOfRange):
        return EXIT_USAGE
    if isinstance(error, Unavailable | DeadlineExceeded) and not isinstance(error, ServingTimeout):
        return EXIT_UNREACHABLE
    return EXIT_FAILED


def print_failure(console: Console, text: str) -> None:
    """Print a failure. Brackets in the text are not markup."""
    console.print("[bold red]error:[/] ", end="")
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_error(console: Console, error: BroadsheetError, endpoint: str) -> None:
    """Print an error, its reason, and a hint.

    Args:
        console: Where to print.
        error: What the client raised.
        endpoint: The control plane that was asked.
    """
    if isinstance(error, Unavailable) and error.reason == "UNAVAILABLE":
        # gRPC's message is about sockets and name resolution, so it comes second.
        print_failure(console, f"cannot reach the control plane at {endpoint}")
        _line(console, "cause", error.message)
    else:
        print_failure(console, str(error))
    if error.reason and error.reason not in ("UNAVAILABLE", "INVALID_SPEC"):
        _line(console, "reason", error.reason)
    hint = _hint(error)
    if hint:
        _line(console, "hint", hint)


def _hint(error: BroadsheetError) -> str:
    if error.reason in HINTS:
        return HINTS[error.reason]
    if isinstance(error, Unavailable):
        return "is the control plane running? Start it: broadsheet controlplane; elsewhere: --endpoint HOST:PORT"
    if isinstance(error, ServingTimeout):
        connected = any(plane.connected for plane in error.progress.data_planes)
        return "it may still come; broadsheet fleet list" if connected else "start a data plane: broadsheet dataplane"
    if isinstance(error, DeadlineExceeded):
        return "the control plane did not answer in time; whether a write was done is unknown, and repeating it is safe"
    if isinstance(error, ServingFailed):
        name = error.data_plane.removeprefix("dataPlanes/")
        return f"broadsheet fleet get {name} shows the whole state; the data plane's log has the engine's output"
    if isinstance(error, Unimplemented):
        return "the control plane is older than this client, or the endpoint is not a control plane"
    return ""


def _line(console: Console, label: str, text: str) -> None:
    console.print(f"  {label}: ", end="", style="dim")
    console.print(text, markup=False, highlight=False, soft_wrap=True)
