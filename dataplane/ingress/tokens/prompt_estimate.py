"""Estimates the prompt tokens of a request whose answer does not report them. Pure.

The engine is not asked: the request that is estimated was abandoned, and another one would cost as
much as the estimate may be wrong.
"""

from __future__ import annotations

import re

from dataplane.ingress.tokens.answer_meter import AUDIO_TOKENS_PER_S, BYTES_OF_A_TOKEN

_LOOKED_AT_BYTES = 1024 * 1024
"""Bytes of a JSON body that are looked at: few models read more text."""
_ENCODED = re.compile(rb'"[A-Za-z0-9+/\\=_:;,.-]{256,}+(?:"|\Z)')
"""A long string without a blank: an image or a sound in base64, and not text."""
_AUDIO_BYTES_PER_S = 16_000
"""Of a compressed sound (128 kbit/s)."""


def json_tokens(body: bytes) -> int:
    """One token for each 4 bytes of a JSON body, without images and sounds."""
    looked_at = body[:_LOOKED_AT_BYTES]
    return len(_ENCODED.sub(b"", looked_at)) // BYTES_OF_A_TOKEN


def audio_tokens(body: bytes) -> int:
    """Those of a sound of 16,000 bytes a second."""
    return -(-len(body) * AUDIO_TOKENS_PER_S // _AUDIO_BYTES_PER_S)
