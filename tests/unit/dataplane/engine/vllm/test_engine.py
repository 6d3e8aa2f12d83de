from __future__ import annotations

from types import SimpleNamespace

import pytest

from dataplane.engine.vllm.engine import _extend_workers
from dataplane.errors import EngineStartError


def test_a_worker_extension_in_the_engine_args_is_refused() -> None:
    with pytest.raises(EngineStartError, match="worker_extension_cls") as caught:
        _extend_workers(SimpleNamespace(worker_extension_cls="theirs.Extension"))
    assert caught.value.reason == "ENGINE_ARGS_INVALID"
