"""The blocking client. `broadsheet.aio` has the same for asyncio."""

from __future__ import annotations

from broadsheet._sync.api_keys import ApiKeys
from broadsheet._sync.history import History
from broadsheet._sync.rollouts import Rollouts
from broadsheet._sync.routes import Routes
from broadsheet._sync.serving import Serving
from broadsheet._sync.waves import Waves

__all__ = ["Client"]


class Client(Serving, Rollouts, Routes, ApiKeys, History, Waves):
    """A client of the control plane. Use it as a context manager, or `close` it.

    Threads may share a client.

    Every method takes `timeout_s`, the deadline of one RPC in seconds; None stands for that of the
    client. A method that lists fetches page after page, and the deadline holds for each page.

    Every method raises subclasses of `broadsheet.BroadsheetError`, listed in `broadsheet.errors`.
    Any method may raise `Unavailable` and `DeadlineExceeded`. While the control plane is
    unavailable, an RPC is tried up to four times within about two seconds. A request that changes
    something carries a request id, so it is carried out once.

    Names: a model is `smollm2` or `models/smollm2`; an adapter is `smollm2/pirate` or
    `models/smollm2/adapters/pirate`; a data plane is `local` or `dataPlanes/local`.
    """
