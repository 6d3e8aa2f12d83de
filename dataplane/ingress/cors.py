"""Cross-origin requests: which web pages a browser lets call the ingress (the Fetch standard's CORS
protocol)."""

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
"""Named one by one: `*` means nothing to a browser that sends credentials."""
_MAX_AGE_S = 600
"""How long a browser may remember the answer to a preflight."""


def allow_origins(app: AsgiApp, origins: tuple[str, ...], *, credentials: bool) -> AsgiApp:
    """`app` with preflights answered before it, and its answers marked for those origins. None:
    `app` itself.

    Args:
        app: answers `http` scopes.
        origins: as browsers send them, or `*` alone.
        credentials: let browsers send cookies along; not with `*`.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=_METHODS,
        # OpenAI's clients send a dozen `x-stainless-*` of their own. What they are is bounded as
        # for every caller.
        allow_headers=("*",),
        allow_credentials=credentials,
        expose_headers=_EXPOSED_HEADERS,
        max_age=_MAX_AGE_S,
    )
