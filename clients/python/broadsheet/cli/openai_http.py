"""A client for the OpenAI API of a data plane, with readable errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import httpx

from protocol.addresses import is_loopback

CONNECT_TIMEOUT_S = 5.0

ANSWER_TIMEOUT_S = 900.0
"""Longer than the default cold start timeout (600 s) plus an answer: the deadline of the data plane
ends first, and its error says more."""


class AnswerError(Exception):
    """The data plane answered with an error. The text has status, message, type and code."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    @classmethod
    def of_body(cls, body: Mapping[str, Any], status: int | None = None) -> Self:
        """From an OpenAI error body."""
        error = body.get("error")
        if not isinstance(error, dict):
            return cls(f"HTTP {status}: {body}")
        notes = [f"HTTP {status}"] if status is not None else []
        notes += [str(error[key]) for key in ("type", "code") if error.get(key) is not None]
        if error.get("param"):
            notes.append(f"param {error['param']}")
        return cls(f"{error.get('message', 'no message')} ({', '.join(notes)})")

    @classmethod
    def unless_success(cls, response: httpx.Response) -> dict[str, Any]:
        """The JSON object in a successful response.

        Raises:
            AnswerError: The response is an error, or not a JSON object.
        """
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise cls(f"HTTP {response.status_code}, and no JSON object: {response.text[:200]}")
        if response.is_error:
            error = cls.of_body(body, response.status_code)
            retry_after = response.headers.get("retry-after")
            raise cls(f"{error}; try again in {retry_after} s") if retry_after else error
        return body


def http_client(url: str, api_key: str = "") -> httpx.Client:
    """A client for the data plane at `url`. Environment proxies do not apply to loopback."""
    return httpx.Client(
        base_url=url,
        headers={"authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        trust_env=not is_loopback(httpx.URL(url).host),
    )
