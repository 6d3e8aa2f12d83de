"""What two launchers of one data plane agree on, and what another data plane must not take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataplane.launch.record import LaunchRecord, differences, refusal

SETTINGS = {
    "http": "127.0.0.1:8000",
    "data_dir": "/data/a",
    "ingress_replicas": "2",
    "engine_tls_ca": "",
    "drain_s": "120.0",
}
RECORD = LaunchRecord(release="1", settings=SETTINGS)


def changed(record: LaunchRecord = RECORD, **settings: str) -> LaunchRecord:
    return replace(record, settings={**record.settings, **settings})


def test_a_record_is_read_back_as_it_was() -> None:
    record = replace(RECORD, attempt=3)
    assert LaunchRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("stored", ["", "[]", "{}", '{"release": "1", "settings": 5, "attempt": 0}'])
def test_what_is_no_record_is_refused(stored: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        LaunchRecord.from_json(stored)


def test_replicas_are_replaced_for_other_settings_and_releases_and_for_another_attempt() -> None:
    others = (changed(drain_s="5.0"), replace(RECORD, release="2"), replace(RECORD, attempt=1))
    assert RECORD.version not in {other.version for other in others}


def test_a_number_of_replicas_replaces_none() -> None:
    assert changed(ingress_replicas="3").version == RECORD.version
    assert changed(ingress_replicas_max="9").version == RECORD.version


def test_each_difference_is_named_with_both_values() -> None:
    asked = replace(changed(drain_s="5.0", http="127.0.0.1:9000"), release="2")
    assert differences(RECORD, asked) == (
        "release: 1 → 2",
        "drain_s: 120.0 → 5.0",
        "http: 127.0.0.1:8000 → 127.0.0.1:9000",
    )
    assert differences(RECORD, RECORD) == ()


def test_tls_of_engines_that_run_cannot_be_changed() -> None:
    fault = refusal("local", changed(engine_tls_ca="/ca.pem"), RECORD, {})
    assert fault is not None
    for word in ("engine_tls_ca", "/ca.pem", "none", "local", "stop"):
        assert word in fault


@pytest.mark.parametrize("http", ["127.0.0.1:8000", "0.0.0.0:8000", "[::]:8000"])
def test_a_port_of_another_data_plane_is_refused(http: str) -> None:
    fault = refusal("b", changed(http=http, data_dir="/data/b"), None, {"a": RECORD})
    assert fault == f"http: got {http}, where data plane a of this cluster listens"


def test_a_data_directory_of_another_data_plane_is_refused() -> None:
    fault = refusal("b", changed(http="127.0.0.1:9000"), None, {"a": RECORD})
    assert fault == "data_dir: got /data/a, which data plane a of this cluster uses"


def test_other_data_planes_that_share_nothing_are_no_reason() -> None:
    asked = changed(http="127.0.0.2:8000", data_dir="/data/b")
    assert refusal("b", asked, None, {"a": RECORD}) is None
    assert refusal("b", asked, changed(asked, drain_s="1.0"), {"a": RECORD}) is None
