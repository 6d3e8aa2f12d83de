"""The OpenAI-compatible HTTP server of a data plane.

Everything about a request is decided from the view that this process holds in memory; bytes go to
an engine replica and come back. It asks nobody anything in order to answer `/v1/models`, to route,
or to be healthy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from random import Random

import msgspec
import structlog

from broadsheet.v1 import route_pb2
from dataplane.ingress import metrics
from dataplane.ingress.access.api_keys import KeyAccess
from dataplane.ingress.admission.admission import Admission
from dataplane.ingress.admission.load import Lease, ModelUsage
from dataplane.ingress.body import Body, ClientGone, parse_form, parse_json, read_body
from dataplane.ingress.cors import allow_origins
from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.models.list import ModelsList, encode_model
from dataplane.ingress.models.page import encode_page, page_query
from dataplane.ingress.request_context import RequestContext
from dataplane.ingress.routing import Choice, Failing, NotFound, choose
from dataplane.ingress.token_usage import TokenMeter
from dataplane.ingress.upstream import Answer, Upstream, UpstreamFailed, UpstreamSilent, engine_headers
from dataplane.ingress.view_holder import ViewHolder
from dataplane.openai import errors as openai_errors
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.openai.asgi import JSON, CancelOnDisconnect, Receive, Scope, Send, answer_lifespan, header
from dataplane.openai.routes import INFERENCE_ROUTES, InferenceRoute
from dataplane.snapshot.activation import View
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.snapshot import Snapshot

__all__ = ["IngressApp", "IngressSettings"]

_log = structlog.get_logger("dataplane.ingress.app")

_MODEL_PREFIX = "/v1/models/"
_READ_METHODS = ("GET", "HEAD", "OPTIONS")
_POST_METHODS = ("POST", "OPTIONS")
_RETRY_PAUSE_S = 0.25
"""Before trying again where there is no other replica, times the tries so far: by then the view
shows a dead one."""
_SENT_TRIES_MAX = 2
"""How many engines may lose their life to one request: the second that goes away over it is the
last."""
_FAILING: Mapping[type[openai_errors.IngressError], Failing] = {
    openai_errors.NotServedHere: Failing.UNAVAILABLE,
    openai_errors.ModelFailed: Failing.UNAVAILABLE,
    openai_errors.ColdStartTimeout: Failing.UNAVAILABLE,
    openai_errors.EngineUnreachable: Failing.UNAVAILABLE,
    openai_errors.QueueFull: Failing.QUEUE_FULL,
    openai_errors.Overloaded: Failing.QUEUE_FULL,
}
"""Refusals after which a route may fall back. Nothing of an answer has reached the caller at any of
them."""
_CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; it only shows in metrics."""


class IngressApp:
    """A raw ASGI app. One per ingress replica, on one event loop."""

    def __init__(
        self,
        *,
        views: ViewHolder,
        wake: Callable[[str], None],
        settings: IngressSettings,
        random: Random,
        clock: Callable[[], float],
        replica: str,
    ) -> None:
        """Nothing happens before the first call.

        Args:
            views: where the current view is.
            wake: told the resource name of an idle model that is asked for, at most once a second
                each. It returns at once, and swaps no view before it has returned.
            settings: limits.
            random: for the choice between targets of a route, and between replicas.
            clock: seconds; only what `usage` reports is read from it.
            replica: id of this ingress replica, in its metrics.
        """
        self._views = views
        self._settings = settings
        self._random = random
        self._admission = Admission(views=views, wake=wake, random=random, clock=clock)
        self._upstream = Upstream(settings)
        self._models = ModelsList()
        self.key_access = KeyAccess(require_api_key=settings.require_api_key, clock=clock)
        """What there is to know of callers' keys."""
        self._closing = False
        self._open_requests = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._metrics = metrics.IngressMetrics(
            replica=replica,
            in_flight=self._admission.in_flight,
            waiting=self._admission.waiting,
            revision=self._revision,
        )
        self._answer = allow_origins(
            self._http, settings.cors_allow_origins, credentials=settings.cors_allow_credentials
        )
        self._unsubscribe = views.subscribe(self._admission.on_view)
        self._unsubscribe_key_access = views.subscribe(self.key_access.on_view)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await answer_lifespan(receive, send, self.aclose)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "WebSockets are not supported."})

    def usage(self) -> Mapping[str, ModelUsage]:
        """What there is to do for each model, by resource name; models that nobody asked for lately
        are not in it."""
        return self._admission.usage()

    def applications_in_use(self) -> Mapping[str, int]:
        """Requests at engine replicas, by Serve application; one without any is not in it."""
        return self._admission.applications_in_use()

    def begin_drain(self) -> None:
        """From now on refuse new requests, and at once those that wait. Others go on."""
        self._closing = True
        self._admission.refuse_waiting()

    async def aclose(self) -> None:
        """Begin to drain, let requests end until the drain limit, then close all connections."""
        self.begin_drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._idle.wait()
        self._unsubscribe()
        self._unsubscribe_key_access()
        await self._upstream.aclose()

    def _revision(self) -> int:
        view = self._views.current
        return view.snapshot.position.revision if view is not None else -1

    # --- one request ------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext(scope, receive, send, view=self._views.current, started_at=_now())
        self._open_requests += 1
        self._idle.clear()
        try:
            await self._dispatch(context)
        except openai_errors.IngressError as error:
            await self._refuse(context, error)
        except ClientGone:
            context.status = _CLIENT_CLOSED_REQUEST
        except Exception:
            _log.exception("request_failed", request_id=context.request_id, route=context.route)
            if context.begun:
                raise  # the server cuts the connection
            await self._refuse(context, openai_errors.InternalError(context.request_id))
        finally:
            self._open_requests -= 1
            if not self._open_requests:
                self._idle.set()
            self._metrics.count_request(context.route, context.kind, context.status)

    async def _refuse(self, context: RequestContext, error: openai_errors.IngressError) -> None:
        answer = openai_errors.answer_for(error, anthropic=context.anthropic)
        self._metrics.count_refusal(answer.code)
        if isinstance(error, openai_errors.BodyTooLarge):
            await context.send_and_linger(answer.status, answer.headers, answer.body)
        else:
            await context.send_whole(answer.status, answer.headers, answer.body)

    async def _dispatch(self, context: RequestContext) -> None:
        path: str = context.scope["path"]
        method: str = context.scope["method"]
        self._check_headers(context.scope)
        route = INFERENCE_ROUTES.get(path)
        if route is not None:
            context.route, context.anthropic = path, route.anthropic
            if method != "POST":
                await self._answer_other_method(context, method, _POST_METHODS)
            else:
                await self._infer(context, route)
            return
        is_model = path.startswith(_MODEL_PREFIX) and len(path) > len(_MODEL_PREFIX)
        if not is_model and path not in ("/v1/models", "/healthz", "/readyz", "/metrics"):
            raise openai_errors.UnknownPath(method, path)
        context.route = "/v1/models/{name}" if is_model else path
        if method not in ("GET", "HEAD"):
            await self._answer_other_method(context, method, _READ_METHODS)
        elif path == "/healthz":
            await context.send_whole(200, [JSON], b'{"status":"ok"}')
        elif path == "/metrics":
            await context.send_whole(200, [(b"content-type", metrics.CONTENT_TYPE)], self._metrics.exposition())
        else:
            await self._answer_from_view(context, self._ready_view(context), path)

    def _check_headers(self, scope: Scope) -> None:
        limit = self._settings.max_header_bytes
        if sum(len(name) + len(value) for name, value in scope["headers"]) > limit:
            raise openai_errors.HeadersTooLarge(limit)

    async def _answer_other_method(self, context: RequestContext, method: str, allowed: tuple[str, ...]) -> None:
        names = ", ".join(allowed)
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
            body = await self._models_body(view, key, path, context.scope["query_string"])
        await context.send_whole(200, [JSON], body)

    async def _models_body(self, view: View, key: ApiKey | None, path: str, query_string: bytes) -> bytes:
        if path == "/v1/models":
            query = page_query(query_string) if query_string else None
            if query is not None:
                return await encode_page(view, key, query)
            return await self._models.body(view, key)
        served_name = path[len(_MODEL_PREFIX) :]
        self.key_access.check_name(key, served_name)
        body = encode_model(view, served_name)
        if body is None:
            raise openai_errors.ModelNotFound(served_name)
        return body

    # --- inference --------------------------------------------------------------------------------

    async def _infer(self, context: RequestContext, route: InferenceRoute) -> None:
        context.api_key = self.key_access.authenticate(context.scope, self._ready_view(context).snapshot)
        body = await self._read(context, route)
        if context.api_key is not None:
            self.key_access.check_name(context.api_key, body.model)
            context.limit_headers = self.key_access.count_request(context.api_key)
        guard = CancelOnDisconnect(context.receive)
        complete = False
        async with guard:
            complete = await self._forward(context, route, body)
        if guard.disconnected:
            context.status = _CLIENT_CLOSED_REQUEST
        elif complete:
            await context.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _read(self, context: RequestContext, route: InferenceRoute) -> Body:
        settings, scope = self._settings, context.scope
        raw = await read_body(
            context.receive,
            declared_length=header(scope, b"content-length"),
            max_bytes=settings.max_body_bytes,
            timeout_s=settings.body_read_timeout_s,
        )
        return parse_form(raw, header(scope, b"content-type") or b"") if route.form else parse_json(raw)

    async def _forward(self, context: RequestContext, route: InferenceRoute, body: Body) -> bool:
        """Get an answer to the caller. Returns whether the response is complete but for its end."""
        snapshot, choice = self._choose(context, body)
        refusal: openai_errors.IngressError | None = None
        while True:
            try:
                return await self._forward_to(context, route, body, choice.resource)
            except openai_errors.NotServedHere as error:
                failed: openai_errors.IngressError = error
                current = self._views.current
                if current is not None and current.snapshot is not snapshot:
                    # It left the catalog while the request waited for it: what does the name mean
                    # now?
                    snapshot, choice = self._choose(context, body)
                    continue
            except openai_errors.IngressError as error:
                failed = error
            # The caller is told of what it was to get, not of what it might have got instead.
            refusal = refusal or failed
            failing = _FAILING.get(type(failed))
            following = choice.after(failing) if failing is not None else None
            if following is None:
                raise refusal
            choice = following
            self._metrics.fallbacks.inc()

    def _choose(self, context: RequestContext, body: Body) -> tuple[Snapshot, Choice]:
        """What the request goes to, and the snapshot that says so."""
        view = self._views.current
        if view is None:
            raise openai_errors.NotReady

        def sticky_key(sticky: route_pb2.RouteSticky) -> str | None:
            if sticky.user:
                return body.user()
            value = header(context.scope, sticky.header.encode())
            return value.decode("latin-1") if value is not None else None

        choice = choose(view.snapshot, body.model, sticky_key=sticky_key, draw=self._random.random)
        if isinstance(choice, NotFound):
            raise openai_errors.ModelNotFound(body.model)
        context.route_name = choice.route
        return view.snapshot, choice

    async def _forward_to(self, context: RequestContext, route: InferenceRoute, body: Body, resource: str) -> bool:
        """Get the answer from a replica to the caller. Returns whether the response is complete but
        for its end."""
        tried: set[str] = set()
        sent_tries = 0
        for number in range(1, self._settings.upstream_tries + 1):
            with await self._admission.acquire(resource, body.model, avoid=tried) as lease:
                context.decided_by(lease)
                try:
                    answer = await self._ask_engine(context, route, body, lease)
                except UpstreamSilent as error:
                    self._note_failure(context, lease, error)
                    raise openai_errors.EngineSilent(body.model, self._settings.request_timeout_s) from None
                except UpstreamFailed as error:
                    failure = error
                else:
                    try:
                        self._note_first_byte(context, lease)
                        return await self._relay(context, body.model, answer)
                    finally:
                        answer.close()
            self._note_failure(context, lease, failure)
            tried.add(lease.endpoint.replica_id)
            sent_tries += not failure.refused
            if sent_tries >= _SENT_TRIES_MAX or number == self._settings.upstream_tries:
                break
            self._metrics.retries.inc()
            if failure.refused and all(other.replica_id in tried for other in lease.route.activation.endpoints):
                await asyncio.sleep(_RETRY_PAUSE_S * number)
        raise openai_errors.EngineUnreachable(body.model)

    async def _ask_engine(self, context: RequestContext, route: InferenceRoute, body: Body, lease: Lease) -> Answer:
        adapter = lease.route.adapter
        headers = engine_headers(
            context.scope["headers"],
            request_id=context.request_id,
            secret=lease.route.activation.secret,
            served_name=body.model,
            adapter=adapter,
        )
        sent = body.raw if adapter is None else body.asking_for(engine_adapter_name(adapter))
        return await self._upstream.start(lease.endpoint, route.path, context.scope["query_string"], headers, sent)

    def _note_failure(self, context: RequestContext, lease: Lease, failure: UpstreamFailed) -> None:
        if failure.refused:
            self._admission.report_down(lease.endpoint)
        _log.warning(
            "engine_request_failed",
            request_id=context.request_id,
            model=lease.route.model_revision_name,
            replica=lease.endpoint.replica_id,
            error=str(failure),
            refused=failure.refused,
        )

    def _note_first_byte(self, context: RequestContext, lease: Lease) -> None:
        seconds = _now() - context.started_at
        self._metrics.observe_first_byte(context.route, seconds)
        if lease.waited_for_start:
            self._metrics.cold_starts.observe(seconds)
            self._admission.note_first_byte(lease, seconds)

    async def _relay(self, context: RequestContext, served_name: str, answer: Answer) -> bool:
        await context.begin(answer.status, answer.headers())
        chunk = answer.first
        key = context.api_key
        meter = TokenMeter(streams_events=answer.streams_events) if key is not None and key.tokens_per_minute else None
        try:
            while chunk:
                if meter is not None:
                    meter.feed(chunk)
                await context.send({"type": "http.response.body", "body": chunk, "more_body": True})
                chunk = await answer.more()
        except UpstreamFailed as failure:
            _log.warning("engine_answer_broke_off", request_id=context.request_id, error=str(failure))
            if not answer.streams_events:
                return False  # a response without its end: the server cuts the connection, so the caller sees it
            ended: openai_errors.IngressError = openai_errors.EngineBroke(served_name)
            if isinstance(failure, UpstreamSilent):
                ended = openai_errors.EngineSilent(served_name, self._settings.request_timeout_s)
            event = openai_errors.event_for(ended, anthropic=context.anthropic)
            await context.send({"type": "http.response.body", "body": event, "more_body": True})
        finally:
            # Also when the caller goes away: what the engine has made was made for this key.
            if key is not None and meter is not None:
                self.key_access.charge_tokens(key, meter.tokens())
        return True


def _now() -> float:
    """Seconds on the event loop's clock, which no one sets back."""
    return asyncio.get_running_loop().time()
