"""Ends the Sync streams of credentials that do not count any more.

A stream is admitted once and lasts for months. Meanwhile its token may be withdrawn or expire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import structlog

from controlplane.errors import DomainError, Reason, Unauthenticated, Unavailable
from controlplane.principal import Principal
from controlplane.push.stream import Context, Identify, Stream
from controlplane.push.subscription.goodbyes import CREDENTIAL_EXPIRED, CREDENTIAL_WITHDRAWN

CHECK_S = 2.0
"""Between two looks at all credentials. Seconds."""

RECONNECT_AFTER_S = 0.5
"""Asked of a data plane whose credential has ended: it may have got a new one. Seconds."""

STREAMS_PER_TURN = 50
"""Streams that are looked at before other tasks have their turn: about a millisecond."""

Admit = Callable[[str, Context], Awaitable[Principal]]
"""Who makes a call of this method, or refuses it. `Authenticator.admit` does."""

SYNC = "/broadsheet.v1.SnapshotService/Sync"

_log = structlog.get_logger("controlplane.push.credential_watch")


class CredentialWatch:
    """Looks at the credentials of all open streams again and again."""

    def __init__(
        self, streams: Callable[[], Iterable[Stream]], admit: Admit, identify: Identify, *, check_s: float = CHECK_S
    ) -> None:
        """
        Args:
            streams: The open streams.
            admit: Refuses credentials that do not count any more.
            identify: Refuses callers that may not speak for a data plane any more.
            check_s: Between two looks. Seconds.
        """
        self._streams = streams
        self._admit = admit
        self._identify = identify
        self._check_s = check_s

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._check_s)
            await self.look()

    async def look(self) -> None:
        """End each stream that would not be let in now."""
        for number, stream in enumerate(tuple(self._streams()), start=1):
            refusal = await self._refusal(stream)
            if refusal is not None:
                reason = CREDENTIAL_EXPIRED if refusal.reason is Reason.TOKEN_EXPIRED else CREDENTIAL_WITHDRAWN
                _log.info(
                    "sync_credential_ended",
                    data_plane=stream.data_plane_id,
                    principal=stream.caller.name,
                    reason=refusal.reason,
                    error=refusal.message,
                )
                stream.end(reason, reconnect_after_s=RECONNECT_AFTER_S)
            if number % STREAMS_PER_TURN == 0:
                await asyncio.sleep(0)

    async def _refusal(self, stream: Stream) -> DomainError | None:
        """Why a stream would not be let in now; None: it would be, or that cannot be found out."""
        if stream.call is None or stream.is_ending:
            return None
        try:
            caller = await self._admit(SYNC, stream.call)
            if caller != stream.caller:
                return Unauthenticated(Reason.TOKEN_INVALID, "the credential is that of another principal now")
            self._identify(caller, stream.data_plane_id)
        except Unavailable:
            # The keys of an identity provider cannot be fetched. Its tokens counted a moment ago.
            return None
        except DomainError as refusal:
            return refusal
        return None
