"""A Ray cluster that cannot be joined is an error at once."""

from __future__ import annotations

import socket

import pytest
import ray

from dataplane.launch.errors import LaunchRefused
from dataplane.launch.joining import check_reachable, join


def test_a_ray_cluster_that_does_not_answer_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        check_reachable(address)
    with pytest.raises(LaunchRefused, match=rf"ray_address: got {address}, where no Ray cluster answers"):
        check_reachable(address)
    with pytest.raises(LaunchRefused, match=r"ray_address: got 127\.0\.0\.1:99999"):
        check_reachable("127.0.0.1:99999")


def test_whoever_lacks_a_token_is_told_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(LaunchRefused, match=r"got auto: Failed to connect; .*set RAY_AUTH_MODE=token"):
        join("auto")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(LaunchRefused, match=r"got auto: Failed to connect$"):
        join("auto")
