"""The engine's routes that users may reach: an allow-list. Pure.

They are the inference routes of vLLM 0.32's OpenAI app, over all tasks; a model whose task lacks
one says so itself. Left out on purpose, besides everything that administers an engine:

- `GET /v1/responses/{id}` and its `cancel`: stored responses live in the one replica that made
them.
- `/v1/realtime`: a WebSocket that names its model only after it is open.
- `/invocations`, `/ping`: SageMaker's second spelling of the routes below.
- `…/render`, `…/derender`, `/inference/v1/*`: what vLLM's own parts say to each other when they are
  scaled apart; they take request ids and cache addresses on trust.
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
        *(InferenceRoute(path=path) for path in _JSON_PATHS),
        *(InferenceRoute(path=path, form=True) for path in _FORM_PATHS),
        *(InferenceRoute(path=path, anthropic=True) for path in _ANTHROPIC_PATHS),
    )
}
"""By path."""
