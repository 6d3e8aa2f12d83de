"""The limits of one ingress replica."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressSettings:
    """Limits of one ingress replica. Limits per model are in its `Admission`."""

    max_body_bytes: int = 32 * 1024 * 1024
    """Bytes of a request body; more is answered 413. Room for a few images or ten minutes of
    audio."""
    max_header_bytes: int = 64 * 1024
    """Bytes of all request headers together; more is answered 431. Servers that hold headers to
    less do so before."""
    body_read_timeout_s: float = 120.0
    """How long a client may take to send its body, in all; longer is answered 408."""
    request_timeout_s: float = 600.0
    """Longest silence of an engine, before and within its answer. OpenAI's own clients wait as
    long."""
    cors_allow_origins: tuple[str, ...] = ()
    """Origins whose pages browsers let call; `*`: all; empty: CORS is off."""
    cors_allow_credentials: bool = False
    """Let browsers send cookies and client certificates along. Never with `*`."""
    connect_timeout_s: float = 2.0
    """How long connecting to an engine replica may take. They are in the same cluster."""
    host_timeout_s: int = 15
    """How long the host of an engine replica may acknowledge nothing: then it is lost, and the
    connection with it."""
    upstream_keepalive_s: float = 60.0
    """How long an idle connection to an engine replica is kept. Below the 75 s after which a
    replica closes one."""
    upstream_tries: int = 3
    """How often a request is sent in all when it fails before the first byte of the answer."""
    require_api_key: bool = False
    """Let nobody in without an API key, also while the catalog has none."""
    drain_timeout_s: float = 60.0
    """How long `aclose` waits for requests in flight before it cuts them off."""
