"""A blocking connection to a control plane: every RPC of `broadsheet.Client` goes through it."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar

import grpc

from broadsheet._connection.identity import identify
from broadsheet._connection.options import DEFAULT_ENDPOINT, DEFAULT_TIMEOUT_S, channel_options, check_endpoint
from broadsheet._connection.paging import PagedRequest, PagedResponse, advance, begin
from broadsheet._connection.status import from_rpc_error, rpc_name
from broadsheet.v1 import fleet_service_pb2_grpc, registry_service_pb2_grpc, snapshot_service_pb2_grpc
from protocol.transport.credentials import Credentials

_RequestT = TypeVar("_RequestT")
_ResponseT = TypeVar("_ResponseT")
_PagedRequestT = TypeVar("_PagedRequestT", bound=PagedRequest)
_PagedResponseT = TypeVar("_PagedResponseT", bound=PagedResponse)


class Connection:
    """A channel with its deadlines and credentials. Threads may share it."""

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        credentials: Credentials | None = None,
    ) -> None:
        """Prepare the channel. Nothing is sent before the first call.

        Args:
            endpoint: `host:port` of the control plane. A connection to another machine uses TLS
                unless the credentials say otherwise.
            timeout_s: Deadline of each RPC in seconds, unless the call has its own.
            credentials: Token and TLS. Default: the token that a control plane on this machine left
                for this user.

        Raises:
            ValueError: `endpoint` is not `host:port`, or a certificate or key file is unreadable.
        """
        self._timeout_s = timeout_s
        self._endpoint = check_endpoint(endpoint)
        self._credentials = credentials or Credentials()
        options = channel_options(endpoint)
        tls = self._credentials.channel_credentials(endpoint)
        self._channel = (
            grpc.insecure_channel(endpoint, options=options)
            if tls is None
            else grpc.secure_channel(endpoint, tls, options=options)
        )
        self._closed = False
        self._registry = registry_service_pb2_grpc.RegistryServiceStub(self._channel)
        self._snapshot = snapshot_service_pb2_grpc.SnapshotServiceStub(self._channel)
        self._fleet = fleet_service_pb2_grpc.FleetServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type_: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Open calls end as `Cancelled`. A second close does nothing."""
        self._closed = True
        self._channel.close()

    def _call(
        self,
        rpc: grpc.UnaryUnaryMultiCallable[_RequestT, _ResponseT],
        request: _RequestT,
        timeout_s: float | None,
    ) -> _ResponseT:
        """Send one request.

        Args:
            rpc: Method of a stub.
            request: Sent with a request id if it has that field.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            BroadsheetError: The call failed.
            RuntimeError: The client is closed.
        """
        if self._closed:
            raise RuntimeError("this Client is closed")
        identify(request)
        try:
            metadata = self._credentials.metadata(self._endpoint)
            return rpc(request, timeout=self._timeout_s if timeout_s is None else timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, rpc_name(request)) from error

    def _pages(
        self,
        rpc: grpc.UnaryUnaryMultiCallable[_PagedRequestT, _PagedResponseT],
        request: _PagedRequestT,
        timeout_s: float | None,
    ) -> Iterator[_PagedResponseT]:
        """The pages of a list, each fetched when it is asked for.

        Args:
            rpc: Method of a stub.
            request: Changed in place from page to page.
            timeout_s: Deadline of each page in seconds. None: that of the client.

        Raises:
            BroadsheetError: A call failed.
        """
        begin(request)
        more = True
        while more:
            response = self._call(rpc, request, timeout_s)
            yield response
            more = advance(request, response, rpc_name(request))
