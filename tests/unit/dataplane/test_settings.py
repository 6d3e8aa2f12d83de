"""A setting that is not allowed is refused with its name, its value, and what is allowed."""

from __future__ import annotations

import os

import pytest

from dataplane.settings import SettingsError, parse


def test_defaults_stay_on_this_machine() -> None:
    settings = parse([])
    assert (settings.controlplane, settings.http, settings.data_plane_id) == (
        "127.0.0.1:8300",
        "127.0.0.1:8000",
        "local",
    )


def test_flag_takes_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROADSHEET_DATAPLANE_DATA_PLANE_ID", "from-environment")
    assert parse([]).data_plane_id == "from-environment"
    assert parse(["--data-plane-id", "from-flag"]).data_plane_id == "from-flag"


def test_labels_are_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse([]).labels_by_key == {}
    assert parse(["--labels", "region=eu, tier=canary,note="]).labels_by_key == {
        "region": "eu",
        "tier": "canary",
        "note": "",
    }
    monkeypatch.setenv("BROADSHEET_DATAPLANE_LABELS", "tier=canary")
    assert parse([]).labels_by_key == {"tier": "canary"}


def test_engine_arguments_are_allowed_by_name_and_none_by_default() -> None:
    assert parse([]).allowed_engine_args == ()
    argv = ["--allowed-engine-args", "trust-remote-code, speculative_config.model"]
    assert parse(argv).allowed_engine_args == ("trust_remote_code", "speculative_config.model")
    with pytest.raises(SettingsError, match=r"allowed_engine_args.*middleware"):
        parse(["--allowed-engine-args", "middleware"])


def test_sources_are_comma_separated_prefixes() -> None:
    assert parse(["--allowed-sources", "file:///models/, hf://org/"]).allowed_sources == (
        "file:///models/",
        "hf://org/",
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--http", "0.0.0.0:8000"], ["http", "0.0.0.0:8000", "--insecure"]),
        (["--http", "[::]:8000"], ["http", "--insecure"]),
        (["--http", "127.0.0.1"], ["http", "127.0.0.1"]),
        (["--http", "127.0.0.1:99999"], ["http", "99999", "65535"]),
        (["--controlplane", "host:0"], ["controlplane", "0", "65535"]),
        (["--data-plane-id", "Not An Id"], ["data_plane_id", "Not An Id"]),
        (["--ingress-replicas", "0"], ["ingress_replicas", "0", "1"]),
        (["--ingress-replicas-max", "1"], ["ingress_replicas_max", "1", "2", "64"]),
        (["--ingress-replicas-max", "65"], ["ingress_replicas_max", "65", "64"]),
        (["--ingress-target-cpu", "1.5"], ["ingress_target_cpu", "1.5", "1"]),
        (["--ingress-target-requests", "0"], ["ingress_target_requests", "0", "1"]),
        (["--drain-s", "soon"], ["drain_s", "soon", "number"]),
        (["--max-body-bytes", "1"], ["max_body_bytes", "1", "1024"]),
        (["--max-held-body-bytes", "67108863"], ["max_held_body_bytes", "67108863", "67108864"]),
        (["--max-header-bytes", "2000000"], ["max_header_bytes", "2000000", "1048576"]),
        (["--head-read-timeout-s", "0"], ["head_read_timeout_s", "0", "1"]),
        (["--max-connections", "0"], ["max_connections", "0", "1"]),
        (["--max-connections-per-address", "2000000"], ["max_connections_per_address", "2000000", "1048576"]),
        (["--body-read-timeout-s", "0"], ["body_read_timeout_s", "0", "1"]),
        (["--request-timeout-s", "inf"], ["request_timeout_s", "inf", "86400"]),
        (["--request-timeout-s", "nan"], ["request_timeout_s", "nan"]),
        (["--cors-allow-origins", "https://a.example/"], ["cors_allow_origins", "https://a.example/", "SCHEME://HOST"]),
        (["--cors-allow-origins", "https://a.example:443"], ["cors_allow_origins", "a.example:443", "default port"]),
        (["--cors-allow-origins", "a.example"], ["cors_allow_origins", "a.example", "SCHEME://HOST"]),
        (["--labels", "Tier=canary"], ["labels", "Tier=canary", "KEY=VALUE"]),
        (["--labels", "tier"], ["labels", "tier", "KEY=VALUE"]),
        (["--labels", "tier=a, tier=b"], ["labels", "twice"]),
        (["--labels", "a=" + 64 * "x"], ["labels", "63"]),
        (["--cors-allow-origins", "null"], ["cors_allow_origins", "null"]),
        (["--cors-allow-origins", "https://*.example"], ["cors_allow_origins", "*.example"]),
        (["--cors-allow-origins", "*, https://a.example"], ["cors_allow_origins", "alone"]),
        (["--cors-allow-origins", "*", "--cors-allow-credentials"], ["cors-allow-credentials", "cors-allow-origins"]),
        (["--cors-allow-credentials"], ["cors-allow-credentials", "cors-allow-origins"]),
        (["--detach"], ["detach", "--ray-address"]),
        (["--ray-address", "ray://host:10001"], ["ray_address", "ray://host:10001", "HOST:PORT"]),
        (["--ray-address", "local"], ["ray_address", "local", "auto"]),
        (["--engine-tls-cert", "c", "--engine-tls-key", "k"], ["engine-tls-ca", "together"]),
        (["--engine-tls-server-name", "engines"], ["engine-tls-server-name", "engine-tls-cert"]),
    ],
)
def test_value_that_is_not_allowed_is_refused(argv: list[str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(argv)
    for word in words:
        assert word in str(caught.value)


def test_bodies_held_by_default_grow_with_the_largest_body() -> None:
    assert parse([]).held_body_bytes_max == 512 * 1024**2
    assert parse(["--max-body-bytes", str(1024**3)]).held_body_bytes_max == 4 * 1024**3
    assert parse(["--max-held-body-bytes", "67108864"]).held_body_bytes_max == 67108864


def test_unknown_environment_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROADSHEET_DATAPLANE_HTTTP", "127.0.0.1:1")
    with pytest.raises(SettingsError, match="BROADSHEET_DATAPLANE_HTTTP"):
        parse([])


@pytest.mark.parametrize(
    ("argv", "required"),
    [
        ([], False),
        (["--require-api-key"], True),
        (["--http", "0.0.0.0:8000", "--http-tls-cert", "c", "--http-tls-key", "k"], True),
        (["--http", "0.0.0.0:8000", "--insecure"], False),
        (["--http", "0.0.0.0:8000", "--insecure", "--require-api-key"], True),
    ],
)
def test_api_key_is_required_beyond_this_machine_unless_insecure(argv: list[str], required: bool) -> None:
    assert parse(argv).api_key_required is required


def test_origins_are_comma_separated_and_none_by_default() -> None:
    assert parse([]).cors_allow_origins == ()
    assert parse(["--cors-allow-origins", ""]).cors_allow_origins == ()
    assert parse(["--cors-allow-origins", "*"]).cors_allow_origins == ("*",)
    origins = ("https://a.example", "http://localhost:3000", "http://[::1]:8080", "chrome-extension://abc")
    assert parse(["--cors-allow-origins", ", ".join(origins), "--cors-allow-credentials"]).cors_allow_origins == origins


def test_insecure_allows_any_address() -> None:
    assert parse(["--http", "0.0.0.0:8000", "--insecure"]).http_host == "0.0.0.0"


def test_another_store_is_accepted_only_if_the_operator_allows_it() -> None:
    assert parse([]).allow_new_store is False
    assert parse(["--allow-new-store"]).allow_new_store is True


def test_without_a_home_the_data_directory_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(SettingsError, match="no home directory; give --data-dir"):
        parse([])
    assert str(parse(["--data-dir", "/data"]).data_dir) == "/data"


def test_a_tilde_in_a_path_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    flags = ("--controlplane-token-file", "--controlplane-tls-ca", "--data-dir")
    parsed = parse([word for flag in flags for word in (flag, "~/x")])
    found = (parsed.controlplane_token_file, parsed.controlplane_tls_ca, parsed.data_dir)
    assert [str(path) for path in found] == ["/home/ada/x"] * 3
    tls = ("cert", "key", "ca")
    engines = parse([word for name in tls for word in (f"--engine-tls-{name}", "~/x")])
    of_engines = (engines.engine_tls_cert, engines.engine_tls_key, engines.engine_tls_ca)
    assert [str(path) for path in of_engines] == ["/home/ada/x"] * 3


def test_a_tilde_without_a_home_is_refused_with_the_name_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(SettingsError, match=r"data_dir.*~/x.*that home directory is not known"):
        parse(["--data-dir", "~/x"])
    with pytest.raises(SettingsError, match=r"http_tls_cert.*~/x.*that home directory is not known"):
        parse(["--data-dir", "/data", "--http-tls-cert", "~/x"])


def test_what_is_not_utf8_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = os.fsdecode(b"/data/\xff")
    with pytest.raises(SettingsError, match=r"^argument 2 \(--data-dir\) is not UTF-8$"):
        parse(["--data-dir", broken])
    monkeypatch.setenv("BROADSHEET_DATAPLANE_DATA_DIR", broken)
    with pytest.raises(SettingsError, match=r"^environment variable BROADSHEET_DATAPLANE_DATA_DIR is not UTF-8$"):
        parse([])


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ([], None),
        (["--ingress-replicas", "3", "--ingress-replicas-max", "3"], None),
        (["--ingress-replicas-max", "5"], (2, 5)),
    ],
)
def test_the_number_of_ingress_replicas_changes_only_within_a_range(
    argv: list[str], found: tuple[int, int] | None
) -> None:
    assert parse(argv).ingress_range == found
