"""One ingress process as in production: the real app, HTTP protocol and event loop.

    python -m tests.bench.ingress.served.ours PORT ENGINE_URL [--names 1000] [--everything]

Left out of `dataplane.ingress.replica` are Ray and the relay: the view is made in memory.
"""

from __future__ import annotations

import argparse

import uvicorn

from dataplane.ingress.app import IngressApp
from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.view_holder import ViewHolder
from dataplane.logs import configure_logging
from dataplane.openai.http_protocol import protocol_class
from dataplane.openai.listening import listener_on
from tests.bench.ingress.served import catalogs
from tests.ingress_app import ingress_app


def http_server(app: IngressApp) -> uvicorn.Server:
    """The HTTP server that `dataplane.ingress.replica` puts around the app."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol_class(IngressSettings(), app.count_refusal),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,
        server_header=False,
        date_header=False,
        proxy_headers=False,
    )
    return uvicorn.Server(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("engine_url")
    parser.add_argument("--names", type=int, default=1_000, help="served names in the catalog")
    parser.add_argument("--everything", action="store_true", help="with an API key that has limits")
    arguments = parser.parse_args()
    configure_logging()
    holder = ViewHolder()
    app = ingress_app(holder, replica="bench")
    holder.swap(catalogs.view(arguments.names, arguments.engine_url, key=arguments.everything))
    listener = listener_on("127.0.0.1", arguments.port, write_timeout_s=60.0, shared=True)
    http_server(app).run(sockets=[listener])


if __name__ == "__main__":
    main()
