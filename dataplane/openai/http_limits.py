"""The limits of one HTTP server on what is no request yet, or is not read. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What callers may send and hold before a key or secret is checked."""

    max_header_bytes: int = 64 * 1024
    """Bytes of all request headers together; more are answered 431, complete or not."""
    max_header_fields: int = 128
    """Request headers; more are answered 431. A header of one byte takes a hundred in memory."""
    max_url_bytes: int = 8 * 1024
    """Bytes of a request's URL; a longer one is answered 414. A served name has 256 characters."""
    max_pipelined_requests: int = 32
    """Requests of a connection that wait for the answer before them; one more closes it."""
    head_read_timeout_s: float = 30.0
    """How long a client may take to send the headers of a request, and how long a new connection
    may stay without a request. Browsers and load balancers open some ahead of time."""
    max_connections: int = 8192
    """Open connections of all callers; one more is answered 503 and closed."""
    max_connections_per_address: int = 2048
    """The same for one IPv4 address or one IPv6 /64. A proxy's address has many callers."""
    max_unfinished_bytes: int = 16 * 1024 * 1024
    """Memory of all unfinished heads and pipelined requests. Beyond it the oldest are closed: those
    of well-behaved clients take milliseconds."""
    max_unfinished_bytes_per_address: int = 4 * 1024 * 1024
    """The same for one IPv4 address or one IPv6 /64: 2 KiB for each of its connections."""
    max_unread_bytes: int = 32 * 1024 * 1024
    """Bytes of answers that wait because their clients do not read. Beyond it the connections that
    have waited longest are closed."""
    max_unread_bytes_per_address: int = 16 * 1024 * 1024
    """The same for one IPv4 address or one IPv6 /64."""
    write_timeout_s: float = 60.0
    """How long a client may read nothing while an answer waits for it. The same as in nginx."""
