"""The engine's routes that users may reach: an allow-list. Pure.

They are the inference routes of vLLM 0.32's OpenAI app, over all tasks. The engine refuses a route
that its model's task lacks. Left out, besides everything that administers an engine:

- `GET /v1/responses/{id}` and its `cancel`: only the replica that made a response stores it.
- `/v1/realtime`: a WebSocket, which names its model only after it is open.
- `/invocations`, `/ping`: SageMaker's second spelling of the routes below.
- `…/render`, `…/derender`, `/inference/v1/*`: internal calls between parts of a disaggregated vLLM.
  They trust the request ids and cache addresses that they get.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRoute:
    """One route that is forwarded to an engine, by POST."""

    path: str
    form: bool = False
    """The body is `multipart/form-data`, not JSON."""
    anthropic: bool = False
    """Callers expect Anthropic's envelope around an error: `{"type": "error", "error": …}`."""
    responses: bool = False
    """Streams are those of OpenAI's Responses API."""


_JSON_PATHS = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/score",
    "/v1/systemone",
    "/v2/embed",
    "/v2/rerank",
    "/cohere/v2/chat",
    "/classify",
    "/detokenize",
    "/generative_scoring",
    "/pooling",
    "/rerank",
    "/score",
    "/tokenize",
)
_FORM_PATHS = ("/v1/audio/transcriptions", "/v1/audio/translations")
_ANTHROPIC_PATHS = ("/v1/messages", "/v1/messages/count_tokens")

INFERENCE_ROUTES: Mapping[str, InferenceRoute] = {
    route.path: route
    for route in (
        *(InferenceRoute(path=path, responses=path == "/v1/responses") for path in _JSON_PATHS),
        *(InferenceRoute(path=path, form=True) for path in _FORM_PATHS),
        *(InferenceRoute(path=path, anthropic=True) for path in _ANTHROPIC_PATHS),
    )
}
"""By path."""
