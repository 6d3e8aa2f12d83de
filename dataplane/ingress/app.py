"""The OpenAI-compatible HTTP server of a data plane, as an ASGI app.

Everything about a request is decided from the view that this process holds in memory. Answering
`/v1/models`, routing and health checks ask no other process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from random import Random

import msgspec
import structlog
from prometheus_client.registry import Collector

from dataplane.ingress import metrics
from dataplane.ingress.access.api_keys import KeyAccess
from dataplane.ingress.access.held_bodies import HeldBodies
from dataplane.ingress.admission.admission import Admission
from dataplane.ingress.admission.load import ModelUsage
from dataplane.ingress.bodies.reading import ClientGone
from dataplane.ingress.choices.choices import Choices
from dataplane.ingress.cors import allow_origins
from dataplane.ingress.engine_trust import EngineTrust
from dataplane.ingress.inference import Inference
from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.models.list import ModelsList
from dataplane.ingress.models.model_object import encode_model
from dataplane.ingress.models.page import PageQuery, encode_page, page_query
from dataplane.ingress.request_context import CLIENT_CLOSED_REQUEST, RequestContext
from dataplane.ingress.scraping.engine_pages import ENGINES_PATH, PAGES_PREFIX, EnginePages, engine_list, may_scrape
from dataplane.ingress.streams.error_event import error_event
from dataplane.ingress.traffic import TrafficCount
from dataplane.ingress.upstream.client import Upstream
from dataplane.ingress.view_holder import ViewHolder
from dataplane.openai import error_answers
from dataplane.openai import errors as openai_errors
from dataplane.openai.asgi import JSON, Receive, Scope, Send, answer_lifespan
from dataplane.openai.exchange.request_ids import RequestIds
from dataplane.openai.routes import INFERENCE_ROUTES
from dataplane.snapshot.activation import View
from dataplane.snapshot.api_key import ApiKey

_log = structlog.get_logger("dataplane.ingress.app")

_MODEL_PREFIX = "/v1/models/"
_READ_METHODS = ("GET", "HEAD", "OPTIONS")
_POST_METHODS = ("POST", "OPTIONS")


class IngressApp:
    """A raw ASGI app. One per ingress replica, on one event loop."""

    def __init__(
        self,
        *,
        views: ViewHolder,
        wake: Callable[[str], None],
        settings: IngressSettings,
        random: Random,
        time_of_day: Callable[[], float],
        monotonic: Callable[[], float],
        replica: str,
        engine_trust: EngineTrust | None = None,
    ) -> None:
        """
        Args:
            views: Holds the current view.
            wake: Called with the resource name of an idle model that is asked for, at most once a
                second for each model. It must return at once, without swapping the view.
            settings: Limits.
            random: For the choice between targets of a route, and between replicas.
            time_of_day: Seconds since the epoch, for the expiry of keys.
            monotonic: Seconds on a clock that never steps, for `usage`.
            replica: Id of this ingress replica, in its metrics.
            engine_trust: How engine replicas are verified. None: they speak HTTP without TLS.
        """
        self._views, self._settings = views, settings
        self._admission = Admission(views=views, wake=wake, random=random, clock=monotonic)
        self._held_bodies = HeldBodies(settings.max_held_body_bytes)
        self._models = ModelsList()
        self.key_access = KeyAccess(require_api_key=settings.require_api_key, clock=time_of_day)
        """Checks API keys and their rate limits."""
        self.traffic = TrafficCount()
        """Of this replica, since its start."""
        choices = Choices(random)
        self._closing, self._open_requests = False, 0
        self._drained = asyncio.Event()
        """Set when the last request has ended, after the drain has begun."""
        self._request_ids = RequestIds()
        self._metrics = metrics.IngressMetrics(
            replica=replica,
            in_flight=self._admission.in_flight,
            waiting=self._admission.waiting,
            revision=self._revision,
            held_body_bytes=lambda: self._held_bodies.total,
        )
        self._engine_pages = EnginePages(upstream := Upstream(settings, engine_trust), monotonic)
        self._inference = Inference(
            views=views,
            settings=settings,
            choices=choices,
            key_access=self.key_access,
            admission=self._admission,
            held_bodies=self._held_bodies,
            metrics=self._metrics,
            upstream=upstream,
        )
        self._answer = allow_origins(
            self._http, settings.cors_allow_origins, credentials=settings.cors_allow_credentials
        )
        on_view = (self._admission.on_view, self.key_access.on_view, choices.on_view)
        self._unsubscribe = tuple(map(views.subscribe, on_view))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await answer_lifespan(receive, send, self.aclose)

    def usage(self) -> Mapping[str, ModelUsage]:
        """Load by resource name of the model; models without a recent request are left out."""
        return self._admission.usage()

    def applications_in_use(self) -> Mapping[str, int]:
        """Requests in flight, by Serve application; applications without one are left out."""
        return self._admission.applications_in_use()

    @property
    def in_flight(self) -> int:
        """Requests at engine replicas."""
        return self._admission.in_flight()

    def show_metrics(self, collector: Collector) -> None:
        """Show further metrics beside those of the app."""
        self._metrics.registry.register(collector)

    def count_refusal(self, code: str) -> None:
        """Count an error that the HTTP protocol has answered itself."""
        self._metrics.count_refusal(code)

    def begin_drain(self) -> None:
        """Refuse new and waiting requests from now on. Requests at engine replicas continue."""
        self._closing = True
        self._admission.refuse_waiting()

    async def aclose(self) -> None:
        """Drain, let requests end until the drain limit, then close all connections."""
        self.begin_drain()
        if self._open_requests:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.drain_timeout_s):
                    await self._drained.wait()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        await self._engine_pages.aclose()
        await self._inference.aclose()

    def _revision(self) -> int:
        view = self._views.current
        return view.snapshot.position.revision if view is not None else -1

    # --- one request ------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        now = asyncio.get_running_loop().time()
        view, ids = self._views.current, self._request_ids
        context = RequestContext(scope, receive, send, ids=ids, view=view, started_at=now)
        self._open_requests += 1
        try:
            await self._dispatch(context)
        except openai_errors.IngressError as error:
            await self._refuse(context, error)
        except ClientGone:
            context.status = CLIENT_CLOSED_REQUEST
        except Exception:
            _log.exception("request_failed", request_id=context.request_id, route=context.route)
            if context.begun:
                context.broke_off = True
                raise  # the server cuts the connection
            await self._refuse(context, openai_errors.InternalError(context.request_id))
        finally:
            self._open_requests -= 1
            if self._closing and not self._open_requests:
                self._drained.set()
            self._metrics.count_request(context.route, context.kind, context.status)
            self.traffic.count(context.kind, context.status, broke_off=context.broke_off)

    async def _refuse(self, context: RequestContext, error: openai_errors.IngressError) -> None:
        answer = error_answers.answer_for(error, anthropic=context.anthropic)
        self._metrics.count_refusal(answer.code)
        if context.begun:  # a comment was sent while the request waited
            context.broke_off = True
            event = error_event(answer.body, INFERENCE_ROUTES[context.route])
            await context.send({"type": "http.response.body", "body": event, "more_body": False})
        elif isinstance(error, error_answers.BODY_UNREAD):
            await context.send_and_linger(answer.status, answer.headers, answer.body)
        else:
            await context.send_whole(answer.status, answer.headers, answer.body)

    def _dispatch(self, context: RequestContext) -> Awaitable[None]:
        """What answers the request. It is no coroutine: each resumption of one costs a call."""
        path: str = context.scope["path"]
        method: str = context.scope["method"]
        route = INFERENCE_ROUTES.get(path)
        if route is None:
            return self._answer_itself(context, method, path)
        context.route, context.anthropic = path, route.anthropic
        if method != "POST":
            return self._answer_other_method(context, method, _POST_METHODS)
        return self._inference.answer(context, route, self._ready_view(context))

    async def _answer_itself(self, context: RequestContext, method: str, path: str) -> None:
        shown = _shown_path(path)
        if shown is None:
            raise openai_errors.UnknownPath(method, path)
        context.route = shown
        context.anthropic = context.headers.get(b"anthropic-version") is not None
        if method not in ("GET", "HEAD"):
            await self._answer_other_method(context, method, _READ_METHODS)
        elif path == "/healthz":
            await context.send_whole(200, [JSON], b'{"status":"ok"}')
        elif path == "/metrics":
            await context.send_whole(200, [(b"content-type", metrics.CONTENT_TYPE)], self._metrics.exposition())
        else:
            await self._answer_from_view(context, self._ready_view(context), path)

    async def _answer_other_method(self, context: RequestContext, method: str, allowed: tuple[str, ...]) -> None:
        names = ", ".join(allowed)
        if context.headers.get(b"sec-websocket-key") is not None:
            raise openai_errors.WebSocketsUnsupported
        if method != "OPTIONS":
            raise openai_errors.MethodNotAllowed(method, names)
        await context.send_whole(204, [(b"allow", names.encode())], b"")

    def _ready_view(self, context: RequestContext) -> View:
        if self._closing:
            raise openai_errors.ShuttingDown
        if context.view is None:
            raise openai_errors.NotReady
        return context.view

    async def _answer_from_view(self, context: RequestContext, view: View, path: str) -> None:
        if path == "/readyz":
            body = msgspec.json.encode({"status": "ready", "revision": view.snapshot.position.revision})
        else:
            key = self.key_access.authenticate(context.headers, view.snapshot)
            if path.startswith(ENGINES_PATH):
                await self._answer_scrape(context, view, key, path)
                return
            body = await self._models_body(context, view, key, path)
        await context.send_whole(200, [JSON], body)

    async def _answer_scrape(self, context: RequestContext, view: View, key: ApiKey | None, path: str) -> None:
        if not may_scrape(key):
            raise openai_errors.UnknownPath(context.scope["method"], path)
        if path == ENGINES_PATH:
            host = context.headers.get(b"host", b"")
            await context.send_whole(200, [JSON], engine_list(view.activation, host.decode("latin-1")))
            return
        page = await self._engine_pages.page(view.activation, path[len(PAGES_PREFIX) :], context.request_id)
        if page is None:
            raise openai_errors.UnknownPath(context.scope["method"], path)
        await context.send_whole(200, page.headers, page.body)

    async def _models_body(self, context: RequestContext, view: View, key: ApiKey | None, path: str) -> bytes:
        if path == "/v1/models":
            query = page_query(context.scope["query_string"])
            if query is None and not context.anthropic:
                return await self._models.body(view, key)
            return await encode_page(view, key, query or PageQuery(), anthropic=context.anthropic)
        served_name = path[len(_MODEL_PREFIX) :]
        self.key_access.check_name(key, served_name)
        body = encode_model(view, served_name, anthropic=context.anthropic)
        if body is None:
            raise openai_errors.ModelNotFound(served_name)
        return body


def _shown_path(path: str) -> str | None:
    """The path of an answer that no engine computes, as metrics show it; None: there is none."""
    if path in ("/v1/models", "/healthz", "/readyz", "/metrics", ENGINES_PATH):
        return path
    for prefix, name in ((_MODEL_PREFIX, "{name}"), (PAGES_PREFIX, "{replica}")):
        if path.startswith(prefix) and len(path) > len(prefix):
            return prefix + name
    return None
