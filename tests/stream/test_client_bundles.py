"""`broadsheet snapshot verify`, `export` and `import` between two control planes."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from broadsheet import importing
from broadsheet.client import Client
from broadsheet.types import Model, RegisterModelRequest
from dataplane.sync.snapshot_file import write_snapshot
from protocol.bundles.content import Bundle, check, read
from tests.adapter_directories import write_adapter
from tests.bundle_fuzz import bundle as any_bundle
from tests.bundle_fuzz import written
from tests.disk import ONE
from tests.signing import private_key, write_private_keys, write_public_keys
from tests.stream.cli_world import SIMULATED, Cli
from tests.stream.client_world import running_control_plane

TRUSTED, FOREIGN = 1, 2


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[str]:
    """A control plane that signs, with a catalog that has everything."""
    directory = tmp_path / "source"
    directory.mkdir()
    with running_control_plane(directory, signing_keys=write_private_keys(tmp_path / "k.pem", TRUSTED)) as address:
        yield address


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    """Another control plane, which is empty."""
    directory = tmp_path / "target"
    directory.mkdir()
    with running_control_plane(directory) as address:
        yield address


@pytest.fixture
def keys(tmp_path: Path) -> str:
    return str(write_public_keys(tmp_path / "trusted.pem", TRUSTED))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "catalog.bundle"


def fill(cli: Cli, endpoint: str, tmp_path: Path) -> None:
    at = ("--endpoint", endpoint)
    for model in ("a", "b"):
        assert cli("model", "register", model, *SIMULATED, "--lora-max-rank", "8", "--label", "team=x", *at) == 0
    uri = write_adapter(tmp_path / "lora").as_uri()
    assert cli("adapter", "register", "a", "x", "--source", uri, *at) == 0
    assert cli("route", "set", "r", "--target", "a=90", "--target", "b=10", *at) == 0
    assert cli("key", "create", "secret", *at) == 0


def catalog(endpoint: str) -> set[str]:
    with Client(endpoint) as client:
        return {entry.ref.name for entry in client.fetch_snapshot().entries}


def exported(cli: Cli, endpoint: str, file: Path) -> Bundle:
    assert cli("snapshot", "export", str(file), "--endpoint", endpoint) == 0, cli.err
    with file.open("rb") as opened:
        return read(opened)


def test_a_catalog_goes_to_another_registry_after_its_difference_is_shown(
    cli: Cli, source: str, target: str, keys: str, file: Path, tmp_path: Path
) -> None:
    fill(cli, source, tmp_path)
    bundle = exported(cli, source, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert bundle.withheld == 1
    arguments = ("snapshot", "import", str(file), "--trusted-keys", keys, "--endpoint", target)
    assert cli(*arguments, "--dry-run") == 0
    assert "+ models/a/adapters/x" in cli.out
    assert catalog(target) == set()
    assert cli(*arguments) == 2, "there is no terminal to ask on"
    assert "+ routes/r" in cli.err
    assert catalog(target) == set()
    assert cli(*arguments, "--yes") == 0, cli.err
    assert catalog(target) == {"models/a", "models/b", "models/a/adapters/x", "routes/r"}, "and no API key"
    with Client(target) as client:
        assert client.get_model("a").labels["team"] == "x"
        assert client.fetch_snapshot().position.store_uid != bundle.position.store_uid
    assert cli(*arguments, "--yes", "-o", "json") == 0
    assert json.loads(cli.out) == {"applied": True, "changes": []}


def test_prune_deletes_what_an_earlier_import_made_and_nothing_else(
    cli: Cli, source: str, target: str, keys: str, file: Path, tmp_path: Path
) -> None:
    fill(cli, source, tmp_path)
    exported(cli, source, file)
    arguments = ("snapshot", "import", str(file), "--trusted-keys", keys, "--yes", "--endpoint", target)
    assert cli(*arguments) == 0
    assert cli("model", "register", "own", *SIMULATED, "--endpoint", target) == 0
    assert cli("route", "delete", "r", "--endpoint", source) == 0, cli.err
    exported(cli, source, file)
    assert cli(*arguments) == 0
    assert "routes/r" in catalog(target)
    assert cli(*arguments, "--prune") == 0
    assert catalog(target) == {"models/a", "models/b", "models/a/adapters/x", "models/own"}


def test_an_import_asks_who_may_have_signed(cli: Cli, target: str, file: Path, tmp_path: Path) -> None:
    file.write_bytes(written(any_bundle()))
    arguments = ("snapshot", "import", str(file), "--yes", "--endpoint", target)
    assert cli(*arguments) == 2
    assert "--allow-unsigned" in cli.err
    foreign = str(write_public_keys(tmp_path / "foreign.pem", FOREIGN))
    assert cli(*arguments, "--trusted-keys", foreign) == 1
    assert "KEY_NOT_TRUSTED" in cli.err
    assert private_key(TRUSTED).public.id in cli.err
    made = any_bundle()
    file.write_bytes(written(Bundle(position=made.position, entries=made.entries)))
    assert cli(*arguments, "--trusted-keys", foreign) == 1
    assert "SIGNATURE_MISSING" in cli.err
    assert catalog(target) == set()


def test_an_unsigned_bundle_is_imported_only_when_that_is_allowed(cli: Cli, target: str, file: Path) -> None:
    with running_control_plane(file.parent) as unsigned:
        assert cli("model", "register", "a", *SIMULATED, "--endpoint", unsigned) == 0
        assert exported(cli, unsigned, file).signed_head == b""
        assert "not signed" in cli.err
    assert cli("snapshot", "import", str(file), "--allow-unsigned", "--yes", "--endpoint", target) == 0
    assert catalog(target) == {"models/a"}


def test_weights_go_with_the_bundle_and_are_served_from_where_they_are_put(
    cli: Cli, source: str, target: str, keys: str, file: Path, tmp_path: Path
) -> None:
    fill(cli, source, tmp_path)
    assert cli("snapshot", "export", str(file), "--weights", "--endpoint", source) == 0, cli.err
    shutil.rmtree(tmp_path / "lora")
    assert cli("snapshot", "verify", str(file), "--trusted-keys", keys, "-o", "json") == 0, cli.err
    assert json.loads(cli.out)["weights_bytes"] > 0
    arguments = ("snapshot", "import", str(file), "--trusted-keys", keys, "--yes", "--endpoint", target)
    weights = tmp_path / "weights"
    for _ in range(2):
        assert cli(*arguments, "--weights", str(weights)) == 0, cli.err
    with Client(target) as client:
        revision = client.get_adapter("models/a/adapters/x").revision
    assert revision.number == 1
    place = weights / revision.weights.digest.hex()
    assert revision.source.uri == f"file://{place}"
    assert list(weights.iterdir()) == [place]
    assert {path.name for path in place.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_files_that_changed_since_registration_are_not_exported(
    cli: Cli, source: str, file: Path, tmp_path: Path
) -> None:
    fill(cli, source, tmp_path)
    write_adapter(tmp_path / "lora", fill=b"\1")
    assert cli("snapshot", "export", str(file), "--weights", "--endpoint", source) == 1
    assert "FILE_DIGEST_MISMATCH" in cli.err
    assert not file.exists()


def test_damaged_weights_are_not_unpacked(
    cli: Cli, source: str, target: str, keys: str, file: Path, tmp_path: Path
) -> None:
    fill(cli, source, tmp_path)
    assert cli("snapshot", "export", str(file), "--weights", "--endpoint", source) == 0
    whole = file.read_bytes()
    weights = tmp_path / "weights"
    arguments = ("snapshot", "import", str(file), "--trusted-keys", keys, "--yes", "--endpoint", target)
    altered = bytearray(whole)
    altered[-1] ^= 1
    for damaged, reason in (
        (bytes(altered), "FILE_DIGEST_MISMATCH"),
        (whole[:-1], "FORM_INVALID"),
        (whole + b"x", "FORM_INVALID"),
    ):
        file.write_bytes(damaged)
        assert cli("snapshot", "verify", str(file)) == 1
        assert reason in cli.err
        assert cli(*arguments, "--weights", str(weights)) == 1
        assert reason in cli.err
        assert list(weights.iterdir()) == []
    assert catalog(target) == set()
    exported(cli, source, file)
    assert cli(*arguments, "--weights", str(weights)) == 1
    assert "WEIGHTS_MISSING" in cli.err


def test_adapters_with_other_files_are_not_registered(
    cli: Cli, source: str, target: str, keys: str, file: Path, tmp_path: Path
) -> None:
    fill(cli, source, tmp_path)
    exported(cli, source, file)
    write_adapter(tmp_path / "lora", fill=b"\1")
    assert cli("snapshot", "import", str(file), "--trusted-keys", keys, "--yes", "--endpoint", target) == 1
    assert "ADAPTER_DIGEST_MISMATCH" in cli.err
    assert "import again" in cli.err
    assert catalog(target) == {"models/a", "models/b"}


def test_a_route_that_pins_a_revision_is_left_out_only_when_asked(
    cli: Cli, source: str, target: str, keys: str, file: Path, tmp_path: Path
) -> None:
    fill(cli, source, tmp_path)
    assert cli("route", "set", "pinned", "--target", "models/a/revisions/1", "--endpoint", source) == 0, cli.err
    exported(cli, source, file)
    arguments = ("snapshot", "import", str(file), "--trusted-keys", keys, "--yes", "--endpoint", target)
    assert cli(*arguments) == 1
    assert "routes/pinned" in cli.err
    assert catalog(target) == set()
    assert cli(*arguments, "--leave-out-pinning") == 0
    assert "routes/pinned: left out" in cli.err
    assert "routes/pinned" not in catalog(target)


def test_verify_shows_what_is_in_a_bundle_and_who_signed_it(
    cli: Cli, source: str, keys: str, file: Path, tmp_path: Path
) -> None:
    fill(cli, source, tmp_path)
    exported(cli, source, file)
    assert cli("snapshot", "verify", str(file), "--trusted-keys", keys, "-o", "json") == 0
    shown = json.loads(cli.out)
    assert shown["trusted_key"] == private_key(TRUSTED).public.id
    assert shown["entries_by_type"] == {"AdapterEntry": 1, "ApiKeyEntry": 1, "ModelEntry": 2, "RouteEntry": 1}
    assert shown["withheld"] == 1
    assert cli("snapshot", "verify", str(file)) == 0
    assert "not checked" in cli.out


def test_verify_reads_a_file_from_the_disk_of_a_data_plane(cli: Cli, tmp_path: Path, keys: str) -> None:
    file = tmp_path / "a.snapshot"
    with file.open("wb") as opened:
        write_snapshot(opened, ONE)
    assert cli("snapshot", "verify", str(file)) == 0
    assert cli("snapshot", "verify", str(file), "--trusted-keys", keys) == 1
    assert "SIGNATURE_MISSING" in cli.err


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1], "FORM_INVALID"),
        (lambda content: content + b"x", "FORM_INVALID"),
        (lambda content: b"", "FORM_INVALID"),
        (lambda content: b"\0" * len(content), "FORM_INVALID"),
    ],
)
def test_verify_says_why_a_damaged_file_is_refused(cli: Cli, file: Path, damage: object, reason: str) -> None:
    assert callable(damage)
    file.write_bytes(damage(written(any_bundle())))
    assert cli("snapshot", "verify", str(file)) == 1
    assert reason in cli.err


def test_a_file_that_is_not_there_is_wrong_usage(cli: Cli, file: Path) -> None:
    assert cli("snapshot", "verify", str(file)) == 2
    assert "No such file" in cli.err


def test_a_file_with_keys_that_cannot_be_used_is_wrong_usage(cli: Cli, file: Path, tmp_path: Path) -> None:
    file.write_bytes(written(any_bundle()))
    (tmp_path / "keys.pem").write_text("no key")
    assert cli("snapshot", "verify", str(file), "--trusted-keys", str(tmp_path / "keys.pem")) == 2


def test_a_model_keeps_the_rollout_policy_that_it_has_here() -> None:
    live = Model(name="models/a")
    live.rollout_policy.require_warm = True
    made = importing.importable(check(any_bundle()), [live]).requests
    requests = {request.model_id: request for request in made if isinstance(request, RegisterModelRequest)}
    assert requests["a"].rollout_policy == live.rollout_policy
    assert not requests["b"].HasField("rollout_policy")


def test_a_failed_export_leaves_the_file_as_it_was(cli: Cli, file: Path) -> None:
    file.write_text("before")
    assert cli("snapshot", "export", str(file), "--endpoint", "127.0.0.1:1") == 3
    assert file.read_text() == "before"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
