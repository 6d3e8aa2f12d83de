"""Which sources a data plane accepts."""

from __future__ import annotations

import pytest

from dataplane.snapshot.policy import source_allowed


@pytest.mark.parametrize(
    ("uri", "prefix", "allowed"),
    [
        ("file:///models/a", "file:///models", True),
        ("file:///models", "file:///models", True),
        ("file:///models-of-others/a", "file:///models", False),
        ("file:///models/../etc", "file:///models", False),
        ("file:///models/%2e%2E/etc", "file:///models", False),
        ("file:///models/..%2fetc", "file:///models", False),
        ("file:///models/..", "file:///models", False),
        ("file:///models/a..b/.c", "file:///models", True),
        ("hf://org/name", "hf://", True),
        ("hf://org/name", "hf://org", True),
        ("hf://organisation/name", "hf://org", False),
        ("file:///a", "", False),
    ],
)
def test_source_prefixes_match_whole_path_segments(uri: str, prefix: str, allowed: bool) -> None:
    assert source_allowed(uri, (prefix,)) is allowed
