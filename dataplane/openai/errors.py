"""The errors that the ingress answers. `error_answers.py` has the answer to each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dataplane.openai.redaction import redact

_QUOTED_NAME_CHARACTERS_MAX = 256
"""The longest served name. A request's body may carry a megabyte instead."""

_PATHS_HINT = "The models are at GET /v1/models; inference is by POST, as to /v1/chat/completions."
_HEALTH_HINT = "Whether the server is alive is at GET /healthz, whether it is ready at GET /readyz."
_PATH_HINTS: Mapping[str, str] = {
    **dict.fromkeys(("/health", "/healthz", "/livez", "/ping", "/ready", "/readyz", "/v1/health"), _HEALTH_HINT),
    "/v1/models": "The list of models is at GET /v1/models, without a slash at its end.",
}
"""What callers of a usual path look for, by the path without slashes at its end."""


class IngressError(Exception):
    """A request that the ingress answers itself. The caller reads its `str()`."""

    retry_after_s: float | None = None
    """When to try again, in seconds; None: it would fail again."""
    param: str | None = None
    """The request's parameter at fault."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Further headers of the answer."""


class InvalidJson(IngressError):
    def __init__(self, detail: str) -> None:
        super().__init__(f"The request body is not valid JSON: {detail}.")


class BodyNotObject(IngressError):
    def __init__(self) -> None:
        super().__init__("The request body has to be a JSON object.")


class InvalidForm(IngressError):
    def __init__(self, detail: str) -> None:
        super().__init__(f"The request body is not a valid multipart form: {detail}.")


class InvalidParameter(IngressError):
    """An invalid query parameter. The caller has quoted and bounded `got`."""

    def __init__(self, name: str, got: str, allowed: str) -> None:
        super().__init__(f"Invalid value for the parameter `{name}`: got {got}; allowed: {allowed}.")
        self.param = name


class ModelMissing(IngressError):
    param = "model"

    def __init__(self) -> None:
        super().__init__("You must provide a model parameter.")


class ModelNotString(IngressError):
    param = "model"

    def __init__(self) -> None:
        super().__init__("The model parameter has to be a string.")


class ModelNotFound(IngressError):
    param = "model"

    def __init__(self, served_name: str) -> None:
        shown = served_name[:_QUOTED_NAME_CHARACTERS_MAX]
        super().__init__(f"The model `{shown}` does not exist.")


class NotServedHere(IngressError):
    """The model is known but not served here: it has just left the catalog, or is quarantined."""

    retry_after_s = 5.0

    def __init__(self, served_name: str) -> None:
        super().__init__(f"The model `{served_name}` is not available here at the moment.")


class ApiKeyMissing(IngressError):
    def __init__(self) -> None:
        super().__init__("You didn't provide an API key. Send it in the header `authorization: Bearer YOUR_KEY`.")


class ApiKeyInvalid(IngressError):
    def __init__(self) -> None:
        super().__init__("Incorrect API key provided: it is unknown here, or was revoked.")


class ApiKeyExpired(IngressError):
    def __init__(self) -> None:
        super().__init__("The API key provided has expired.")


class RequestsLimited(IngressError):
    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(f"Rate limit reached for this API key: {limit} requests per minute.")
        self.retry_after_s = retry_after_s


class TokensLimited(IngressError):
    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(f"Rate limit reached for this API key: {limit} tokens per minute.")
        self.retry_after_s = retry_after_s


class UnknownPath(IngressError):
    def __init__(self, method: str, path: str) -> None:
        hint = _PATH_HINTS.get(path.rstrip("/"), _PATHS_HINT)
        super().__init__(f"Unknown request URL: {method} {path[:_QUOTED_NAME_CHARACTERS_MAX]}. {hint}")


class WebSocketsUnsupported(IngressError):
    def __init__(self) -> None:
        super().__init__("WebSockets are not supported here. Send it by POST, with `stream: true` for events.")


class MethodNotAllowed(IngressError):
    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"The method {method} is not allowed here; allowed: {allowed}.")
        self.allowed = allowed


class BodyTooLarge(IngressError):
    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request body is larger than the {limit_bytes} bytes that are allowed.")


class BodiesFull(IngressError):
    """The bodies of all requests in progress leave too little room for this one."""

    retry_after_s = 2.0

    def __init__(self, limit_bytes: int, body_bytes: int) -> None:
        super().__init__(
            f"This server holds too many bytes of request bodies to take {body_bytes} more; "
            f"it holds at most {limit_bytes}."
        )


class BodiesOfCallerFull(IngressError):
    """The bodies of the caller's own requests in progress leave too little room for this one."""

    retry_after_s = 2.0

    def __init__(self, held_bytes: int, body_bytes: int) -> None:
        super().__init__(
            f"Your requests in progress hold {held_bytes} bytes of bodies; {body_bytes} more would be more than "
            "this server has left for others. Wait until some of them are answered."
        )


class HeadersTooLarge(IngressError):
    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request headers are larger than the {limit_bytes} bytes that are allowed.")


class TooManyHeaders(IngressError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"The request has more headers than the {limit} that are allowed.")


class TooManyUnfinished(IngressError):
    """Its head was not complete when the server held as much of unfinished ones as it may."""

    retry_after_s = 1.0

    def __init__(self) -> None:
        super().__init__("The server holds too many unfinished requests, and this was one of the oldest.")


class UrlTooLong(IngressError):
    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request URL is longer than the {limit_bytes} bytes that are allowed.")


class HeadTimeout(IngressError):
    """Request line and headers did not arrive in time."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"The request headers did not arrive within {timeout_s:g} s.")


class InvalidHttp(IngressError):
    def __init__(self) -> None:
        super().__init__("The request is not valid HTTP/1.1.")


class TooManyConnections(IngressError):
    retry_after_s = 5.0

    def __init__(self, whose: str, limit: int) -> None:
        super().__init__(f"There are more open connections of {whose} than the {limit} that are allowed.")


class BodyTimeout(IngressError):
    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"The request body did not arrive within {timeout_s:g} s.")


class NotReady(IngressError):
    retry_after_s = 1.0

    def __init__(self) -> None:
        super().__init__("The service has not received its model catalog yet.")


class ShuttingDown(IngressError):
    retry_after_s = 1.0

    def __init__(self) -> None:
        super().__init__("This server is shutting down; another one will answer.")


class ModelFailed(IngressError):
    """The model does not start. `message` is the engine's own; it is redacted here."""

    def __init__(self, served_name: str, *, reason: str, message: str, retry_after_s: float) -> None:
        words = ": ".join(part for part in (reason, redact(message)) if part)
        super().__init__(f"The model `{served_name}` failed to start: {words or 'no reason given'}")
        self.retry_after_s = retry_after_s


class AdapterFailed(IngressError):
    """The engine cannot load the adapter. Replicas make it, and the ingress passes it on."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @classmethod
    def of(cls, served_name: str, *, reason: str, message: str, retry_after_s: float) -> AdapterFailed:
        """The error with the engine's own words, which are redacted here."""
        return cls(
            f"The adapter `{served_name}` could not be loaded: {reason}: {redact(message)}", retry_after_s=retry_after_s
        )


class QueueFull(IngressError):
    retry_after_s = 2.0

    def __init__(self, served_name: str, limit: int) -> None:
        super().__init__(f"The model `{served_name}` already has {limit} requests waiting, which is its limit.")


class ColdStartTimeout(IngressError):
    retry_after_s = 5.0

    def __init__(self, served_name: str, timeout_s: float) -> None:
        super().__init__(f"The model `{served_name}` did not start within {timeout_s:g} s; it may still be starting.")


class StartQueuedTimeout(IngressError):
    """The start did not even begin in time, because others were under way."""

    retry_after_s = 5.0

    def __init__(self, served_name: str, timeout_s: float) -> None:
        super().__init__(
            f"The model `{served_name}` did not start within {timeout_s:g} s: its start is queued behind those of "
            "other models."
        )


class Overloaded(IngressError):
    retry_after_s = 1.0

    def __init__(self, served_name: str, timeout_s: float) -> None:
        super().__init__(f"The model `{served_name}` had no room for the request within {timeout_s:g} s.")


class EngineUnreachable(IngressError):
    retry_after_s = 1.0

    def __init__(self, served_name: str) -> None:
        super().__init__(f"No replica of the model `{served_name}` could be reached.")


class EngineSilent(IngressError):
    """A replica was silent for too long, before its answer or within it."""

    def __init__(self, served_name: str, timeout_s: float) -> None:
        super().__init__(f"The replica of the model `{served_name}` said nothing for {timeout_s:g} s.")


class EngineBroke(IngressError):
    """The answer broke off after it had begun."""

    def __init__(self, served_name: str) -> None:
        super().__init__(f"The replica of the model `{served_name}` went away before its answer was complete.")


class TaskUnsupported(IngressError):
    """The engine has no such route, because its model has another task. Replicas raise it."""

    def __init__(self, served_name: str, path: str, tasks: Iterable[str]) -> None:
        super().__init__(f"The model `{served_name}` does not serve {path}; its tasks are: {', '.join(tasks)}.")


class InternalError(IngressError):
    def __init__(self, request_id: str) -> None:
        super().__init__(f"The server had an error while handling the request; its id is {request_id}.")
