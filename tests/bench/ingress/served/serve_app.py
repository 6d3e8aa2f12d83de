"""Ray Serve's own path: its proxy, an ingress deployment, a handle, and an engine's deployment.

    python -m tests.bench.ingress.served.serve_app PORT

This is the shape of `ray.serve.llm`: FastAPI in the ingress deployment, which calls the replica of
the model through a handle. The replica answers itself with the bytes of the mock engine, so this
path has a hop of HTTP less than the other subjects. One replica of each. Ray's variables decide
whether HAProxy and the throughput options are used.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping

import ray
from fastapi import FastAPI, Request
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.responses import Response, StreamingResponse

from tests.bench.ingress import answers

MAX_ONGOING_REQUESTS = 1_000
"""More than any case has: Serve's default of 5 for each replica would make requests wait."""
_CPUS = 4
"""What Ray may plan with. The deployments ask for none."""

api = FastAPI()


class Engine:
    """What the replica of a model does with a request."""

    def __init__(self) -> None:
        self._unary = answers.unary_json()

    async def chat(self, _body: Mapping[str, object]) -> bytes:
        """A whole answer."""
        return self._unary

    async def stream(self, body: Mapping[str, object]) -> AsyncIterator[bytes]:
        """The events of a streamed answer, one by one."""
        for event in answers.events(answers.stream_of(asked_for(body))):
            yield event


@serve.ingress(api)
class Ingress:
    """The OpenAI API, as a deployment."""

    def __init__(self, engine: DeploymentHandle) -> None:
        self._engine = engine
        self._streams = engine.options(stream=True)

    @api.post("/v1/chat/completions")
    async def chat(self, request: Request) -> Response:
        """Answer a chat, or stream it."""
        body = json.loads(await request.body())
        if not body.get("stream"):
            return Response(await self._engine.chat.remote(body), media_type="application/json")
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: Mapping[str, object]) -> AsyncIterator[bytes]:
        async for event in self._streams.stream.remote(body):
            yield event


def asked_for(body: Mapping[str, object]) -> str:
    """The name of the answer that a request asks for."""
    messages = body["messages"]
    assert isinstance(messages, list)
    return str(messages[0]["content"]).split(" ", 1)[0].removeprefix("bench:")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        # "local": another cluster of this machine is not joined.
        ray.init("local", num_cpus=_CPUS, include_dashboard=False, _temp_dir=folder, log_to_driver=False)
        serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
        as_deployment = serve.deployment(max_ongoing_requests=MAX_ONGOING_REQUESTS, ray_actor_options={"num_cpus": 0})
        application = as_deployment(Ingress).bind(as_deployment(Engine).bind())
        serve.run(application, name="bench", route_prefix="/")
        told_to_end = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())
        told_to_end.wait()
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
