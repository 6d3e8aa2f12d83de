"""The OpenAI-compatible HTTP server of a data plane, as an ASGI app.

Everything about a request is decided from the view that this process holds in memory. Answering
`/v1/models`, routing and health checks ask no other process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from random import Random

import msgspec
import structlog

from dataplane.ingress import metrics
from dataplane.ingress.access.api_keys import KeyAccess
from dataplane.ingress.access.held_bodies import HeldBodies
from dataplane.ingress.admission.admission import Admission
from dataplane.ingress.admission.load import ModelUsage
from dataplane.ingress.body import ClientGone
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
from dataplane.ingress.upstream import Upstream
from dataplane.ingress.view_holder import ViewHolder
from dataplane.openai import error_answers
from dataplane.openai import errors as openai_errors
from dataplane.openai.asgi import JSON, Receive, Scope, Send, answer_lifespan, header
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
        self._views = views
        self._settings = settings
        self._admission = Admission(views=views, wake=wake, random=random, clock=monotonic)
        self._held_bodies = HeldBodies(settings.max_held_body_bytes)
        self._models = ModelsList()
        self.key_access = KeyAccess(require_api_key=settings.require_api_key, clock=time_of_day)
        """Checks API keys and their rate limits."""
        self.traffic = TrafficCount()
        """Of this replica, since its start."""
        self._closing = False
        self._open_requests = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._metrics = metrics.IngressMetrics(
            replica=replica,
            in_flight=self._admission.in_flight,
            waiting=self._admission.waiting,
            revision=self._revision,
            held_body_bytes=lambda: self._held_bodies.total,
        )
        upstream = Upstream(settings, engine_trust)
        self._engine_pages = EnginePages(upstream, monotonic)
        self._inference = Inference(
            views=views,
            settings=settings,
            random=random,
            key_access=self.key_access,
            admission=self._admission,
            held_bodies=self._held_bodies,
            metrics=self._metrics,
            upstream=upstream,
        )
        self._answer = allow_origins(
            self._http, settings.cors_allow_origins, credentials=settings.cors_allow_credentials
        )
        self._unsubscribe = (views.subscribe(self._admission.on_view), views.subscribe(self.key_access.on_view))

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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._idle.wait()
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
        context = RequestContext(scope, receive, send, view=self._views.current, started_at=now)
        self._open_requests += 1
        self._idle.clear()
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
            if not self._open_requests:
                self._idle.set()
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

    async def _dispatch(self, context: RequestContext) -> None:
        path: str = context.scope["path"]
        method: str = context.scope["method"]
        route = INFERENCE_ROUTES.get(path)
        if route is not None:
            context.route, context.anthropic = path, route.anthropic
            if method != "POST":
                await self._answer_other_method(context, method, _POST_METHODS)
            else:
                await self._inference.answer(context, route, self._ready_view(context))
            return
        shown = _shown_path(path)
        if shown is None:
            raise openai_errors.UnknownPath(method, path)
        context.route = shown
        context.anthropic = header(context.scope, b"anthropic-version") is not None
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
        if header(context.scope, b"sec-websocket-key") is not None:
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
            key = self.key_access.authenticate(context.scope, view.snapshot)
            if path.startswith(ENGINES_PATH):
                await self._answer_scrape(context, view, key, path)
                return
            body = await self._models_body(context, view, key, path)
        await context.send_whole(200, [JSON], body)

    async def _answer_scrape(self, context: RequestContext, view: View, key: ApiKey | None, path: str) -> None:
        if not may_scrape(key):
            raise openai_errors.UnknownPath(context.scope["method"], path)
        if path == ENGINES_PATH:
            host = header(context.scope, b"host") or b""
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
