"""An ingress process that follows a relay in another process, as an ingress replica does.

python -m tests.bench.ingress.changes.follower PORT SOCKET
"""

from __future__ import annotations

import argparse
import asyncio
from functools import partial
from pathlib import Path

import uvloop

from dataplane.ingress.relayed_view import WATCHED, RelayedView
from dataplane.ingress.view_holder import ViewHolder
from dataplane.logs import configure_logging
from dataplane.openai.listening import listener_on
from dataplane.relay.relay import Relay
from dataplane.relay.snapshots import read_snapshot
from dataplane.relay.topics import Role, Writer
from tests.bench.ingress.changes.link import RemoteActor
from tests.bench.ingress.changes.publisher import RULES
from tests.bench.ingress.served import ours
from tests.ingress_app import ingress_app
from tests.raw import POLICY


async def serve(port: int, path: Path) -> None:
    """Serve until it is told to end."""
    holder = ViewHolder()
    app = ingress_app(holder, replica="bench")
    relay = Relay(Writer(Role.INGRESS, "bench"), open_actor=partial(RemoteActor, path))
    relayed = RelayedView(POLICY, RULES, partial(read_snapshot, relay))
    watcher = relay.watcher(WATCHED)

    async def follow() -> None:
        while True:
            view = await relayed.take(await watcher.next())
            if view is not None:
                holder.swap(view)

    following = asyncio.create_task(follow())
    await holder.changed(None)
    listener = listener_on("127.0.0.1", port, write_timeout_s=60.0, shared=True)
    await ours.http_server(app).serve(sockets=[listener])
    following.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("socket", type=Path)
    arguments = parser.parse_args()
    configure_logging()
    uvloop.run(serve(arguments.port, arguments.socket))


if __name__ == "__main__":
    main()
