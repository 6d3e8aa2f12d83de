"""gRPC channels to the control plane."""

from __future__ import annotations

import grpc
import grpc.aio

from protocol.snapshot_limits import SYNC_MESSAGE_BYTES_MAX
from protocol.transport.channels import proxy_option
from protocol.transport.credentials import Credentials

WINDOW_BYTES = 4 * 1024 * 1024
"""What the control plane may send before this data plane has read."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    # A peer that vanished is noticed after half a minute. The server allows a ping every 10 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Without its own pool a new channel would inherit the connection backoff of the previous one,
    # on top of the backoff of the Sync client.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", SYNC_MESSAGE_BYTES_MAX),
    # gRPC would measure the bandwidth with a ping for each message, to find the best window. The
    # answers to these pings cost the control plane as much CPU as half of a message. A fixed window
    # of 4 MiB carries 40 MB/s at 100 ms.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
)

Metadata = tuple[tuple[str, str], ...]
"""Of a call: names and values."""


def channel_options(target: str) -> tuple[tuple[str, int], ...]:
    """Options of a channel to `target`."""
    return (*_OPTIONS, proxy_option(target))


def insecure_channel(target: str) -> grpc.aio.Channel:
    """Open a channel without TLS.

    Call it inside the running event loop, and never before a fork.
    """
    return grpc.aio.insecure_channel(target, options=channel_options(target))


def channel_for(credentials: Credentials, target: str) -> grpc.aio.Channel:
    """Open a channel with or without TLS, as the credentials demand; see `insecure_channel`.

    Raises:
        CredentialsError: A file cannot be read.
    """
    tls = credentials.channel_credentials(target)
    if tls is None:
        return insecure_channel(target)
    return grpc.aio.secure_channel(target, tls, options=channel_options(target))
