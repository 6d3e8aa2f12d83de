"""An error as an event, in a stream that has sent nothing but comments. Pure.

The form is that of the route, as its clients read it: `data: {"error": …}` and `[DONE]` of OpenAI's
streams, `event: error` of Anthropic's, and the `error` event of Responses. The last one has its
fields twice: OpenAI's clients raise what is under `error`, and others read what is beside it.
"""

from __future__ import annotations

import msgspec

from dataplane.openai.routes import InferenceRoute


class _Error(msgspec.Struct):
    message: str = "The engine refused the request."
    code: str | int | None = None
    param: str | None = None


class _Envelope(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw(b"{}")


_envelopes = msgspec.json.Decoder(_Envelope)
_errors = msgspec.json.Decoder(_Error)


def error_event(body: bytes, route: InferenceRoute) -> bytes:
    """The last event of the stream.

    Args:
        body: Of the error, as it is answered outside of a stream on that route.
        route: The request's.
    """
    try:
        line = msgspec.json.format(body, indent=-1)
        if route.responses:
            line = _responses_error(line)
    except msgspec.DecodeError:
        line = msgspec.json.encode({"type": "error", "error": {"message": _Error().message, "type": "server_error"}})
    if route.anthropic or route.responses:
        return b"event: error\ndata: " + line + b"\n\n"
    return b"data: " + line + b"\n\ndata: [DONE]\n\n"


def _responses_error(body: bytes) -> bytes:
    written = _envelopes.decode(body).error
    error = _errors.decode(written)
    code = str(error.code) if error.code is not None else None
    fields = {"type": "error", "code": code, "message": error.message, "param": error.param, "sequence_number": 0}
    return msgspec.json.encode(fields | {"error": written})
