"""Answers inference requests: from the caller's body to the last byte of an engine's answer.

Everything is decided from the view in memory. Where a request goes is in `routing.py`, whether it
may go now in `admission/`, and the connection to the engine replica in `upstream/`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import structlog

from dataplane.ingress.access.api_keys import KeyAccess
from dataplane.ingress.access.caller import caller_of
from dataplane.ingress.access.held_bodies import HeldBodies, HeldBody
from dataplane.ingress.admission.admission import Admission
from dataplane.ingress.admission.load import Lease
from dataplane.ingress.bodies.body import Body
from dataplane.ingress.bodies.form_body import parse_form
from dataplane.ingress.bodies.json_body import parse_json
from dataplane.ingress.bodies.reading import read_body
from dataplane.ingress.bodies.splice import splice
from dataplane.ingress.choices.choices import Choices
from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.metrics import IngressMetrics
from dataplane.ingress.request_context import CLIENT_CLOSED_REQUEST, RequestContext
from dataplane.ingress.routing import Choice, Failing
from dataplane.ingress.streams.error_event import error_event
from dataplane.ingress.streams.heartbeat import Heartbeat
from dataplane.ingress.streams.passing import pass_body
from dataplane.ingress.streams.streaming import asks_for_events
from dataplane.ingress.tokens.request_meter import RequestMeter
from dataplane.ingress.upstream.answer import Answer
from dataplane.ingress.upstream.client import Upstream
from dataplane.ingress.upstream.failures import UpstreamFailed, UpstreamSilent
from dataplane.ingress.upstream.headers import engine_headers
from dataplane.ingress.view_holder import ViewHolder
from dataplane.openai import error_answers
from dataplane.openai import errors as openai_errors
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.openai.asgi import CancelOnDisconnect
from dataplane.openai.routes import INFERENCE_ROUTES, InferenceRoute
from dataplane.snapshot.activation import View
from dataplane.snapshot.snapshot import Snapshot

_log = structlog.get_logger("dataplane.ingress.inference")

_RETRY_PAUSE_S = 0.25
"""Pause before a retry when every endpoint was tried, times the tries so far. In that time the view
loses a dead endpoint."""
_SENT_TRIES_MAX = 2
"""Engines that may receive one request: a request that crashes engines crashes no more of them."""
_ENGINE_ERROR_BYTES_MAX = 1024 * 1024
"""Bytes of an engine's error that become an event; what a longer one says is left out."""
_FAILING: Mapping[type[openai_errors.IngressError], Failing] = {
    openai_errors.NotServedHere: Failing.UNAVAILABLE,
    openai_errors.AdapterFailed: Failing.UNAVAILABLE,
    openai_errors.ModelFailed: Failing.UNAVAILABLE,
    openai_errors.ColdStartTimeout: Failing.UNAVAILABLE,
    openai_errors.StartQueuedTimeout: Failing.UNAVAILABLE,
    openai_errors.EngineUnreachable: Failing.UNAVAILABLE,
    openai_errors.QueueFull: Failing.QUEUE_FULL,
    openai_errors.Overloaded: Failing.QUEUE_FULL,
}
"""Refusals after which a route may fall back. In each of them no byte has reached the caller."""


class Inference:
    """Answers inference requests of one ingress replica."""

    def __init__(
        self,
        *,
        views: ViewHolder,
        settings: IngressSettings,
        choices: Choices,
        key_access: KeyAccess,
        admission: Admission,
        held_bodies: HeldBodies,
        metrics: IngressMetrics,
        upstream: Upstream,
    ) -> None:
        """
        Args:
            views: Holds the current view.
            settings: Limits.
            choices: Chooses what a request goes to.
            key_access: Checks API keys.
            admission: Grants room at engine replicas.
            held_bodies: Bounds the bytes of bodies.
            metrics: Counts retries, fallbacks and times.
            upstream: Connects to engine replicas. It is closed with this.
        """
        self._views = views
        self._settings = settings
        self._choices = choices
        self._key_access = key_access
        self._admission = admission
        self._held_bodies = held_bodies
        self._metrics = metrics
        self._upstream = upstream

    async def aclose(self) -> None:
        """Close all connections to engine replicas."""
        await self._upstream.aclose()

    async def answer(self, context: RequestContext, route: InferenceRoute, view: View) -> None:
        """Answer one request.

        Args:
            context: The request.
            route: Its path.
            view: The current view, which decides about the API key.

        Raises:
            openai_errors.IngressError: The request is refused.
            ClientGone: The client left before its body was complete.
        """
        key = context.api_key = self._key_access.authenticate(context.headers, view.snapshot)
        context.caller = caller_of(context.scope, key)
        with self._held_bodies.of(context.caller) as held:
            body = await self._read(context, route, held)
            if key is not None:
                self._key_access.check_name(key, body.model)
                context.limit_headers = self._key_access.count_request(key)
                if key.tokens_per_minute:
                    context.meter = RequestMeter(route.path, body)
            kept_open = self._settings.stream_heartbeat_s and asks_for_events(route.path, body)
            complete = False
            async with CancelOnDisconnect(context.scope, context.receive) as guard:
                try:
                    complete = await (self._forward_kept_open if kept_open else self._forward)(context, route, body)
                finally:
                    # Also when the caller leaves: the engine has done this work for the key.
                    if key is not None and context.meter is not None:
                        self._key_access.charge_tokens(key, context.meter.tokens())
            if guard.disconnected:
                context.status = CLIENT_CLOSED_REQUEST
            elif complete:
                await context.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _read(self, context: RequestContext, route: InferenceRoute, held: HeldBody) -> Body:
        settings, headers = self._settings, context.headers
        raw = context.whole_body()
        if raw is None:
            raw = await read_body(
                context.receive,
                declared_length=headers.get(b"content-length"),
                max_bytes=settings.max_body_bytes,
                timeout_s=settings.body_read_timeout_s,
                hold=held.grow_to,
            )
        elif len(raw) > settings.max_body_bytes:
            raise openai_errors.BodyTooLarge(settings.max_body_bytes)
        else:
            held.grow_to(len(raw))
        return parse_form(raw, headers.get(b"content-type", b"")) if route.form else parse_json(raw)

    # --- where it goes ----------------------------------------------------------------------------

    async def _forward_kept_open(self, context: RequestContext, route: InferenceRoute, body: Body) -> bool:
        """The same as `_forward`, with comments to the caller during the wait."""
        async with Heartbeat(context, interval_s=self._settings.stream_heartbeat_s):
            return await self._forward(context, route, body)

    async def _forward(self, context: RequestContext, route: InferenceRoute, body: Body) -> bool:
        """Send an answer to the caller, with fallbacks.

        Returns whether the response is complete except for its end.
        """
        snapshot, choice = self._choose(context, body)
        refusal: openai_errors.IngressError | None = None
        while True:
            try:
                return await self._forward_to(context, route, body, choice.resource)
            except openai_errors.NotServedHere as error:
                failed: openai_errors.IngressError = error
                current = self._views.current
                if current is not None and current.snapshot is not snapshot:
                    # The resource left the catalog during the wait: resolve the name again.
                    snapshot, choice = self._choose(context, body)
                    continue
            except openai_errors.IngressError as error:
                failed = error
            # The caller gets the refusal of the first choice, not that of a fallback.
            refusal = refusal or failed
            failing = _FAILING.get(type(failed))
            following = choice.after(failing) if failing is not None else None
            if following is None:
                raise refusal
            choice = following
            self._metrics.fallbacks.inc()

    def _choose(self, context: RequestContext, body: Body) -> tuple[Snapshot, Choice]:
        """Choose what the request goes to. Returns the snapshot used, and the choice."""
        view = self._views.current
        if view is None:
            raise openai_errors.NotReady

        choice = self._choices.choose(view.snapshot, body.model, headers=context.headers, user=body.user)
        context.route_name = choice.route
        return view.snapshot, choice

    async def _forward_to(self, context: RequestContext, route: InferenceRoute, body: Body, resource: str) -> bool:
        """Send an answer of one of the resource's replicas to the caller, with retries.

        Returns whether the response is complete except for its end.
        """
        tried: set[str] = set()
        sent_tries = 0
        for number in range(1, self._settings.upstream_tries + 1):
            with await self._admission.acquire(resource, body.model, avoid=tried, caller=context.caller) as lease:
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
                        return await self._send_answer(context, body.model, answer)
                    finally:
                        answer.close()
            self._note_failure(context, lease, failure)
            tried |= {lease.endpoint.replica_id, lease.endpoint.url}
            sent_tries += not failure.refused
            if sent_tries >= _SENT_TRIES_MAX or number == self._settings.upstream_tries:
                break
            self._metrics.retries.inc()
            if failure.refused and all(tried.issuperset(other.urls) for other in lease.route.activation.endpoints):
                await asyncio.sleep(_RETRY_PAUSE_S * number)
        raise openai_errors.EngineUnreachable(body.model)

    # --- to the engine and back -------------------------------------------------------------------

    async def _ask_engine(self, context: RequestContext, route: InferenceRoute, body: Body, lease: Lease) -> Answer:
        adapter = lease.route.adapter
        headers = engine_headers(
            context.scope["headers"],
            request_id=context.request_id,
            secret=lease.route.activation.secret,
            served_name=body.model,
            adapter=adapter,
        )
        edits = [] if adapter is None else [body.asking_for(engine_adapter_name(adapter))]
        if context.meter is not None:
            edits += context.meter.asking(lease.route.model.revision.spec.engine.args)
        sent = splice(body.raw, edits)
        return await self._upstream.start(lease.endpoint, route.path, context.scope["query_string"], headers, sent)

    def _note_failure(self, context: RequestContext, lease: Lease, failure: UpstreamFailed) -> None:
        if context.meter is not None:
            context.meter.failed()
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
        seconds = asyncio.get_running_loop().time() - context.started_at
        self._metrics.observe_first_byte(context.route, seconds)
        if lease.waited_for_start:
            self._metrics.cold_starts.observe(seconds)
            self._admission.note_first_byte(lease, seconds)

    async def _send_answer(self, context: RequestContext, served_name: str, answer: Answer) -> bool:
        meter, headers = context.meter, answer.headers()
        if meter is not None and meter.begin(answer.status, streams_events=answer.streams_events):
            headers = [(name, value) for name, value in headers if name != b"content-length"]
        had_begun = await context.begin(answer.status, headers)
        if had_begun and not answer.streams_events:
            return await self._send_as_event(context, answer)
        try:
            await pass_body(context, answer)
            last = b"" if meter is None else meter.end()
        except UpstreamFailed as failure:
            context.broke_off = True
            _log.warning("engine_answer_broke_off", request_id=context.request_id, error=str(failure))
            if not answer.streams_events:
                return False  # without an end the server cuts the connection, so the caller notices
            ended: openai_errors.IngressError = openai_errors.EngineBroke(served_name)
            if isinstance(failure, UpstreamSilent):
                ended = openai_errors.EngineSilent(served_name, self._settings.request_timeout_s)
            last = b"" if meter is None else meter.end()
            last += error_answers.event_for(ended, anthropic=context.anthropic)
        if last:
            await context.send({"type": "http.response.body", "body": last, "more_body": True})
        return True

    async def _send_as_event(self, context: RequestContext, answer: Answer) -> bool:
        """Send an answer that is not a stream, which is an error, in a stream that has begun."""
        context.broke_off, body, chunk = True, b"", answer.first
        with contextlib.suppress(UpstreamFailed):
            while chunk and len(body) <= _ENGINE_ERROR_BYTES_MAX:
                body += chunk
                chunk = await answer.more()
        event = error_event(body, INFERENCE_ROUTES[context.route])
        await context.send({"type": "http.response.body", "body": event, "more_body": True})
        return True
