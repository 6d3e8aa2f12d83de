"""Passes the body of an engine's answer to the caller."""

from __future__ import annotations

from dataplane.ingress.request_context import RequestContext
from dataplane.ingress.tokens.request_meter import RequestMeter
from dataplane.ingress.upstream.answer import Answer
from dataplane.openai.asgi import WRITE_NOW, WriteNow


async def pass_body(context: RequestContext, answer: Answer) -> None:
    """Send the body of an answer as it comes, metered, except for the response's end.

    Raises:
        UpstreamSilent: nothing came for too long.
        UpstreamFailed: the answer broke off.
    """
    write: WriteNow | None = context.scope.get("extensions", {}).get(WRITE_NOW)
    if write is None:
        await _send_pieces(context, answer)
    elif answer.first:
        await _write_pieces(context, answer, write)


async def _write_pieces(context: RequestContext, answer: Answer, write: WriteNow) -> None:
    # The event loop writes each piece when it reads it. This task only waits for the end.
    write_piece = write if context.meter is None else _metered(context.meter, write)
    ended = write_piece(answer.first) and await answer.pass_on(write_piece)
    while not ended:
        await context.send({"type": "http.response.body", "body": b"", "more_body": True})
        ended = await answer.pass_on(write_piece)


def _metered(meter: RequestMeter, write: WriteNow) -> WriteNow:
    def write_metered(piece: bytes) -> bool:
        passed = meter.passing(piece)
        return not passed or write(passed)

    return write_metered


async def _send_pieces(context: RequestContext, answer: Answer) -> None:
    piece, meter = answer.first, context.meter
    while piece:
        passed = piece if meter is None else meter.passing(piece)
        if passed:
            await context.send({"type": "http.response.body", "body": passed, "more_body": True})
        piece = await answer.more()
