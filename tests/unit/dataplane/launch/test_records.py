"""What of a launcher's settings is left on the cluster."""

from __future__ import annotations

from dataplane.launch.records import record_of
from dataplane.settings import parse

HERE = ["--data-dir", "/data"]


def test_secrets_are_left_as_digests_that_tell_them_apart() -> None:
    one, other = (record_of(parse([*HERE, "--controlplane-token", token])) for token in ("secret-1", "secret-2"))
    assert "secret" not in one.to_json()
    assert one.settings["controlplane_token"] != other.settings["controlplane_token"]


def test_what_concerns_the_launcher_only_is_left_out() -> None:
    alone, joined = record_of(parse(HERE)), record_of(parse([*HERE, "--ray-address", "auto", "--detach"]))
    assert alone == joined
