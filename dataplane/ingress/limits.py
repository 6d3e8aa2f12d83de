"""The limits of one ingress replica. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.openai.http_limits import HttpLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressSettings(HttpLimits):
    """Limits of one ingress replica. Limits per model are in its `Admission`."""

    max_body_bytes: int = 32 * 1024 * 1024
    """Bytes of a request body; a larger one is answered 413. Enough for a few images or ten
    minutes of audio."""
    max_held_body_bytes: int = 512 * 1024 * 1024
    """Bytes of the bodies of all requests in progress; see `HeldBodies` for what one caller may
    hold of them. More are answered 503 or 429."""
    body_read_timeout_s: float = 120.0
    """How long a client may take to send its whole body; a slower one is answered 408."""
    request_timeout_s: float = 600.0
    """Longest silence of an engine, before and within its answer. OpenAI's clients wait as long."""
    stream_heartbeat_s: float = 0.0
    """Time between two comments in a stream whose request waits; 0: there are none, and the
    response begins with the engine's answer."""
    cors_allow_origins: tuple[str, ...] = ()
    """Origins whose pages may call from a browser; `*` allows all. Empty: CORS is off."""
    cors_allow_credentials: bool = False
    """Let browsers send cookies and client certificates. Not allowed with `*`."""
    connect_timeout_s: float = 2.0
    """How long connecting to an engine replica may take. It is in the same cluster."""
    host_timeout_s: int = 15
    """How long the host of an engine replica may acknowledge nothing before the connection is
    closed."""
    upstream_keepalive_s: float = 60.0
    """How long an idle connection to an engine replica is kept. Less than the 75 s after which a
    replica closes it."""
    upstream_tries: int = 3
    """Tries of a request in all, when it fails before the first byte of the answer."""
    require_api_key: bool = False
    """Require an API key even while the catalog has none."""
    drain_timeout_s: float = 60.0
    """How long `aclose` waits for requests in flight before it closes their connections."""
