from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from controlplane import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_is_one_json_object_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")

    structlog.get_logger("controlplane.x").info("change_made", resource="models/é\n", count=3)

    (line,) = capsys.readouterr().err.splitlines()
    written = json.loads(line)
    assert written.pop("timestamp").endswith("Z")
    assert written == {"event": "change_made", "level": "info", "resource": "models/é\n", "count": 3}


def test_libraries_log_in_the_same_form_and_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")

    logging.getLogger("alembic").info("looked at a migration")
    logging.getLogger("grpc").warning("port %d", 80)

    (line,) = capsys.readouterr().err.splitlines()
    written = json.loads(line)
    assert (written["event"], written["level"]) == ("port 80", "warning")


def test_a_traceback_is_logged_without_the_values_of_variables(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    secret = "-".join(("hunter", "2"))

    try:
        raise RuntimeError(len(secret))
    except RuntimeError:
        structlog.get_logger().exception("rpc_failed")

    (line,) = capsys.readouterr().err.splitlines()
    written = json.loads(line)
    assert written["level"] == "error"
    assert "RuntimeError: 8" in written["exception"]
    assert secret not in written["exception"]


def test_debug_lines_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console")

    structlog.get_logger().debug("detail")
    structlog.get_logger().warning("low", left=1)

    (line,) = capsys.readouterr().err.splitlines()
    assert "low" in line
    assert "left=1" in line


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("closed", [False, True])
def test_a_line_that_cannot_be_written_fails_no_call(monkeypatch: pytest.MonkeyPatch, *, closed: bool) -> None:
    logs.configure("json")
    stream = io.StringIO() if closed else _Full()
    if closed:
        stream.close()
    monkeypatch.setattr("sys.stderr", stream)

    structlog.get_logger().info("change_made")
