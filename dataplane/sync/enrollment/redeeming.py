"""Asks the control plane to exchange an enrolment token, and puts the pieces together."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from broadsheet.v1 import enrollment_pb2 as pb
from broadsheet.v1.fleet_service_pb2_grpc import FleetServiceStub
from dataplane.settings import Settings
from dataplane.sync.channel import Metadata, channel_for
from dataplane.sync.enrollment.credential import EnrolledCredential, EnrollmentError, EnrollmentRefused, bearer
from dataplane.sync.enrollment.kept import CredentialFiles
from protocol.names import data_plane_name
from protocol.transport import local_tokens

TIMEOUT_S = 15.0

_FINAL = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
)
"""Another attempt with the same token would end in the same way."""


def metadata_of(settings: Settings) -> Callable[[], Awaitable[Metadata]]:
    """What finds the metadata of each new stream: the configured token, or the credential that the
    data plane has by enrolment, or the token that a control plane on this machine left."""
    credentials = settings.credentials
    enrolled = EnrolledCredential(
        CredentialFiles(settings.data_dir),
        data_plane_id=settings.data_plane_id,
        token_file=settings.enrollment_token_file,
        redeem=functools.partial(redeem, settings),
    )

    async def metadata() -> Metadata:
        if not credentials.token and credentials.token_file is None:
            credential = await enrolled.get()
            if credential is not None:
                return bearer(credential)
        return credentials.metadata(settings.controlplane, local_tokens.DATA_PLANE)

    return metadata


async def redeem(settings: Settings, token: str, credential_hash: bytes) -> None:
    """Exchange an enrolment token for the credential with this hash.

    The token goes over TLS wherever a data plane's other credentials do.

    Raises:
        EnrollmentRefused: The control plane has refused it.
        EnrollmentError: It cannot be reached, or cannot answer now.
        CredentialsError: A file of the TLS settings cannot be read.
    """
    request = pb.RedeemEnrollmentRequest(
        name=data_plane_name(settings.data_plane_id), enrollment_token=token, credential_hash=credential_hash
    )
    async with channel_for(settings.credentials, settings.controlplane) as channel:
        try:
            await FleetServiceStub(channel).RedeemEnrollment(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            kind = EnrollmentRefused if error.code() in _FINAL else EnrollmentError
            raise kind(f"enrolment: {error.code().name}: {error.details()}") from None
