"""Cross-origin requests, by the CORS protocol of the Fetch standard."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware

from dataplane.openai.asgi import AsgiApp

_METHODS = ("GET", "HEAD", "POST")
_EXPOSED_HEADERS = (
    "retry-after",
    "x-broadsheet-model",
    "x-broadsheet-revision",
    "x-broadsheet-route",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
)
"""Listed by name: browsers that send credentials ignore `*`."""
_MAX_AGE_S = 600
"""How long a browser may cache the answer to a preflight."""


def allow_origins(app: AsgiApp, origins: tuple[str, ...], *, credentials: bool) -> AsgiApp:
    """Wrap `app` so that it answers preflights and marks its answers for these origins.

    Args:
        app: Answers `http` scopes.
        origins: As browsers send them, or `*` alone. Without any, `app` itself is returned.
        credentials: Let browsers send cookies. Not allowed with `*`.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=_METHODS,
        # OpenAI's clients send a dozen `x-stainless-*` headers. Their size is bounded as for every
        # caller.
        allow_headers=("*",),
        allow_credentials=credentials,
        expose_headers=_EXPOSED_HEADERS,
        max_age=_MAX_AGE_S,
    )
