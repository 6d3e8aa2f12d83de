from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.ingress import wrk

OUTPUT = """Running 2s test @ http://127.0.0.1:1/v1/chat/completions
  1 threads and 16 connections
Requests/sec:  39146.52
@result {"requests":78926,"duration_s":2.016169,"read_bytes":59510204,"p50_ms":0.200,"p99_ms":41.425,"errors":3}
"""


def test_the_result_is_found_in_the_output_of_wrk() -> None:
    assert wrk.parse(OUTPUT) == wrk.Load(
        requests=78926, duration_s=2.016169, read_bytes=59510204, p50_ms=0.2, p99_ms=41.425, errors=3
    )


def test_output_without_a_result_is_an_error_that_shows_it() -> None:
    with pytest.raises(wrk.LoadError, match="no result: 'unable to connect'"):
        wrk.parse("unable to connect")


def test_a_result_that_lacks_a_field_is_an_error_that_names_it() -> None:
    with pytest.raises(wrk.LoadError, match="missing required field `duration_s`"):
        wrk.parse('@result {"requests":1}')


def test_the_script_sends_the_headers_and_counts_every_kind_of_error() -> None:
    script = wrk.script(Path("/some/body"), {"authorization": 'Bearer "x"'})
    assert 'wrk.headers["authorization"] = "Bearer \\"x\\""' in script
    assert 'io.open("/some/body", "rb")' in script
    for kind in ("connect", "read", "write", "status", "timeout"):
        assert f"errors.{kind}" in script


def test_a_missing_wrk_names_the_script_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(wrk.LoadError, match="scripts/install-bench"):
        wrk.installed()
