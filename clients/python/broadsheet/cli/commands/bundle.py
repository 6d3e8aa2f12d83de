"""`broadsheet snapshot verify`, `export` and `import`: snapshots as files."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated

import typer

from broadsheet import applying, importing
from broadsheet.applying import Action, Prune, Step
from broadsheet.cli import weights
from broadsheet.cli.report import EXIT_FAILED, print_error
from broadsheet.cli.session import Output, Session
from broadsheet.cli.view import results
from broadsheet.cli.view.bundles import BundleFacts, bundle_json, bundle_view
from broadsheet.cli.view.steps import steps_json, steps_view
from broadsheet.client import Client
from broadsheet.errors import DataLoss, FailedPrecondition, InvalidSpec, PermissionDenied
from broadsheet.importing import Importable
from broadsheet.specs.declared import Declared
from broadsheet.specs.requests import Request, resource_name
from broadsheet.types import RegisterAdapterRequest
from protocol import sources
from protocol.bundles import content
from protocol.bundles.content import Bundle, BundleError
from protocol.signing.heads import signed_head_of, verify_head
from protocol.signing.signatures import SignatureError
from protocol.transport.home import absolute
from protocol.transport.key_files import KeyFilesError, read_verifier
from protocol.validation import violations_of

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The file.")]
TrustedKeysOption = Annotated[
    Path | None,
    typer.Option("--trusted-keys", help="PEM file with public keys, one of which must have signed it."),
]

_OWNER = "import"
_NOTHING = "nothing to do: the registry is as the bundle says"


def verify(session: Session, file: FileArgument, *, trusted_keys: TrustedKeysOption = None) -> None:
    """Check a bundle, or a snapshot file of a data plane: every entry, the root digest, references,
    and with --trusted-keys the signature."""
    with _opened(file) as opened:
        bundle = content.read(opened)
        messages = content.check(bundle)
        trusted = _trusted(bundle, trusted_keys)
        weights_bytes = weights.verify(opened, messages)
    facts = BundleFacts(bundle=bundle, trusted_key=trusted, weights_bytes=weights_bytes)
    results.show(session, bundle_json(facts), bundle_view(facts))


def export(
    session: Session,
    file: FileArgument,
    *,
    revision: Annotated[int | None, typer.Option(min=0, help="Catalog revision. Default: the newest.")] = None,
    with_weights: Annotated[
        bool,
        typer.Option("--weights", help="Include the files of adapters with file:// sources; run it where they are."),
    ] = False,
) -> None:
    """Write a snapshot with its signature to a file, for `snapshot import` elsewhere.

    API keys are not in it. Your credentials must be able to list them all the same: the signature
    is over their names and digests too.
    """
    with session.client() as client:
        snapshot = client.fetch_snapshot(revision)
    if len(snapshot.entries) != snapshot.entry_count:
        raise PermissionDenied(
            f"your credentials see {len(snapshot.entries)} of {snapshot.entry_count} entries, and not the API keys, so "
            "nobody could verify the file",
            reason="PERMISSION_DENIED",
        )
    bundle = Bundle(
        position=snapshot.position,
        entries=content.without_keys(snapshot.entries),
        signed_head=signed_head_of(snapshot),
    )
    weights_bytes = None
    with _replacing(file) as opened:
        messages = content.check(bundle)
        content.write(opened, bundle)
        if with_weights:
            weights_bytes = weights.append(opened, messages)
    session.say(f"revision {snapshot.position.revision} written to {file}")
    if not bundle.signed_head:
        session.say("it is not signed: this control plane does not sign")
    facts = BundleFacts(bundle=bundle, trusted_key=None, weights_bytes=weights_bytes)
    results.show(session, bundle_json(facts), bundle_view(facts))


def import_(
    session: Session,
    file: FileArgument,
    *,
    trusted_keys: TrustedKeysOption = None,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Take it whoever made it: no signature is checked.")
    ] = False,
    leave_out_pinning: Annotated[
        bool, typer.Option("--leave-out-pinning", help="Leave out routes that pin a revision.")
    ] = False,
    weights_dir: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="DIR", help="Put the adapters' files there, where the planes find them at that path."
        ),
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Delete what an earlier import made and it lacks.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Register the models, adapters and routes of a bundle, after showing what that changes.

    The registry numbers its own revisions. The files of models must be where the bundle says, and
    without --weights those of adapters too; adapters with other files are refused. --weights
    unpacks the files before anything is shown: the control plane reads them to say what changes.
    """
    if trusted_keys is None and not allow_unsigned:
        raise typer.BadParameter("say who may have signed it, or --allow-unsigned", param_hint="--trusted-keys")
    place = _place(weights_dir)
    with _opened(file) as opened:
        bundle = content.read(opened)
        messages = content.check(bundle)
        _trusted(bundle, trusted_keys)
        if place is not None:
            messages = weights.unpack(opened, messages, place)
        elif weights.verify(opened, messages) is not None:
            session.say("it has the files of adapters, which stay in it; --weights DIR unpacks them")
    with session.client() as client:
        found = importing.importable(messages, client.list_models())
        _say_left_out(session, found, leave_out_pinning=leave_out_pinning)
        steps = _planned(session, client, file, found, prune=prune)
        due = [step for step in steps if step.action is not Action.KEEP]
        view = steps_view(due, "would change", nothing=_NOTHING)
        if due and not dry_run:
            if session.output is Output.TABLE or not yes:
                session.stderr.print(view)
            _ask(yes)
            _carry_out(session, client, steps, found)
    done = view if dry_run or not due else f"{len(due)} imported from revision {bundle.position.revision}"
    results.show(session, steps_json(due, applied=not dry_run), done)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """The file, for reading. What is wrong with it is raised as an error of the client."""
    try:
        opened = file.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from error
    with opened, _explained(file):
        yield opened


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except BundleError as error:
        raise DataLoss(f"{file}: {error.message}", reason=error.reason) from error


def _trusted(bundle: Bundle, trusted_keys: Path | None) -> str | None:
    """Id of the trusted key that has signed it; None: no keys were given."""
    if trusted_keys is None:
        return None
    try:
        verifier = read_verifier(trusted_keys)
    except KeyFilesError as error:
        raise typer.BadParameter(str(error), param_hint="--trusted-keys") from error
    try:
        return verify_head(verifier, bundle.signed_head, bundle.position, len(bundle.entries))
    except SignatureError as error:
        raise FailedPrecondition(error.message, reason=error.reason) from error


def _place(directory: Path | None) -> Path | None:
    """The directory for weights, absolute, as a source URI can name it."""
    if directory is None:
        return None
    try:
        place = absolute(directory)
        sources.file_path(f"{sources.FILE_SCHEME}{place}")
    except ValueError as error:
        raise typer.BadParameter(f"got {directory}: {error}", param_hint="--weights") from error
    return place


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `file` when the block ends well. It is for its owner alone."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with (
            open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened,
            _explained(file),
        ):
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        scratch.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise


def _say_left_out(session: Session, found: Importable, *, leave_out_pinning: bool) -> None:
    for model in found.rolling_out:
        session.say(f"{model}: a newer revision was being rolled out; the one before it is imported")
    if found.pinning and not leave_out_pinning:
        raise FailedPrecondition(
            f"{', '.join(found.pinning)} pin a revision, which has another number here; --leave-out-pinning imports "
            "the rest",
            reason="REVISION_PINNED",
        )
    for route in found.pinning:
        session.say(f"{route}: left out, because it pins a revision")


def _planned(session: Session, client: Client, file: Path, found: Importable, *, prune: bool) -> Sequence[Step]:
    declared = [Declared(request=_valid(request), path=file, line=1) for request in found.requests]
    how = Prune.OWN if prune else Prune.NOTHING
    steps, problems = applying.plan(client, declared, owner=_OWNER, prune=how)
    for problem in problems:
        session.say(f"{problem.name}:")
        print_error(session.stderr, problem.error, session.endpoint)
    if problems:
        session.say("nothing was imported")
        raise typer.Exit(EXIT_FAILED)
    return steps


def _valid(request: Request) -> Request:
    violations = violations_of(request)
    if violations:
        raise InvalidSpec(f"{resource_name(request)} is not valid; nothing was imported", violations=tuple(violations))
    return request


def _ask(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to confirm on; check the changes above, then add --yes")
    typer.confirm("Import?", abort=True, err=True)


def _carry_out(session: Session, client: Client, steps: Sequence[Step], found: Importable) -> None:
    """Carry out the steps: models first, so that the files of adapters can be compared before any
    adapter is registered."""
    done: list[Step] = []
    adapters = [step for step in steps if isinstance(step.request, RegisterAdapterRequest)]
    models = [
        step
        for step in steps
        if step.action is not Action.DELETE and step.name.startswith("models/") and "/adapters/" not in step.name
    ]
    try:
        applying.carry_out(client, models, on_done=done.append)
        _refuse_other_files(client, adapters, found.digests)
        applying.carry_out(client, [step for step in steps if step not in models], on_done=done.append)
    except Exception:
        if done:
            view = steps_view(done, "done before it failed; import again when the cause is gone", nothing=_NOTHING)
            session.stderr.print(view)
        raise


def _refuse_other_files(client: Client, adapters: Sequence[Step], digests: Mapping[str, bytes]) -> None:
    """Refuse adapters whose files here are others than those that were exported."""
    for step in adapters:
        request = step.request
        assert isinstance(request, RegisterAdapterRequest), "the caller chose them"
        found = client.register_adapter(
            request.parent, request.adapter_id, source=request.source, validate_only=True
        ).adapter.revision.weights
        if found.digest != digests[step.name]:
            raise FailedPrecondition(
                f"{step.name}: the files at {request.source.uri} have digest {found.digest.hex()}, and those that were "
                f"exported {digests[step.name].hex()}",
                reason="ADAPTER_DIGEST_MISMATCH",
            )
