"""Resources as YAML files declare them, all checked at once.

A file may hold several documents, and a directory several files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from broadsheet.errors import InvalidSpec
from broadsheet.specs.nodes import STDIN, Problem, documents, folder_of, from_document, line_of
from broadsheet.specs.reader import Reader
from broadsheet.specs.requests import OWNER_LABEL, Request, resource_name
from broadsheet.types import RegisterAdapterRequest, RegisterModelRequest, SetRouteRequest
from protocol.validation import FieldViolation, violations_of

SUFFIXES = (".yaml", ".yml")

_KINDS: Mapping[str, type[Request]] = {
    "model_id": RegisterModelRequest,
    "adapter_id": RegisterAdapterRequest,
    "route_id": SetRouteRequest,
}
"""Kinds of request, each by a field that it requires and the others lack."""

_CALL_FIELDS = ("etag", "must_create", "request_id", "validate_only")
"""Fields that belong to one call and not to the resource."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One resource as a file declares it."""

    request: Request
    path: Path
    line: int
    """First line of its document, from 1."""

    @property
    def name(self) -> str:
        """Resource name."""
        return resource_name(self.request)

    def place(self, field: str = "") -> str:
        """Where it is declared, for an error: `dir/models.yaml:12 spec.engine`."""
        return f"{self.path}:{self.line} {field}".rstrip()


def load_declared(paths: Iterable[Path]) -> tuple[Declared, ...]:
    """Every resource declared in these files and in the YAML files below these directories.

    Args:
        paths: Files, directories, and `STDIN` for standard input.

    Raises:
        InvalidSpec: Some file is wrong. The violations are those of all files, each with file and
            line.
    """
    declared: list[Declared] = []
    violations: list[FieldViolation] = []
    for path in _files(paths, violations):
        try:
            found = documents(path)
        except InvalidSpec as error:
            violations.append(FieldViolation(field=f"{path}", description=error.message))
            continue
        if not found and path == STDIN:
            # The command before the pipe may have failed; `--prune` would delete what is missing.
            violations.append(FieldViolation(field=f"{path}", description="standard input is empty"))
        for document in found:
            resource = _declared(path, document, violations)
            if resource is not None:
                declared.append(resource)
    violations += _duplicates(declared)
    if not declared and not violations:
        raise InvalidSpec("no file declares anything; nothing was applied")
    if violations:
        count = len({violation.field.split(":")[0] for violation in violations})
        raise InvalidSpec(
            f"{count} {'file is' if count == 1 else 'files are'} not valid; nothing was applied",
            violations=tuple(violations),
        )
    return tuple(declared)


def _files(paths: Iterable[Path], violations: list[FieldViolation]) -> Iterator[Path]:
    """The files to read, each once, however many links and arguments lead to it."""
    seen: set[Path] = set()
    for path in paths:
        found = [path] if path == STDIN or not path.is_dir() else sorted(_below(path))
        if not found:
            violations.append(FieldViolation(field=f"{path}", description=f"has no {' or '.join(SUFFIXES)} files"))
        for file in found:
            real = file.resolve()
            if real not in seen:
                seen.add(real)
                yield file


def _below(directory: Path) -> Iterator[Path]:
    """The YAML files below a directory, also through links to directories within it.

    Names that begin with two dots are passed over: in a mounted ConfigMap or Secret they are its
    versions, and the other names are links into the current one.
    """
    root, seen = directory.resolve(), set[Path]()
    for folder, subfolders, names in os.walk(directory, followlinks=True):
        real = Path(folder).resolve()
        if real in seen or not real.is_relative_to(root):
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".."))
        for name in names:
            file = Path(folder, name)
            if file.suffix in SUFFIXES and not name.startswith("..") and file.is_file():
                yield file


def _declared(path: Path, document: yaml.Node, violations: list[FieldViolation]) -> Declared | None:
    first_line = document.start_mark.line + 1
    problems: list[Problem] = []
    try:
        root = from_document(document, problems)
    except InvalidSpec as error:
        violations.append(FieldViolation(field=f"{path}:{first_line}", description=error.message))
        return None
    fields = root.value if isinstance(root.value, dict) else {}
    kinds = [kind for field, kind in _KINDS.items() if field in fields]
    if len(kinds) != 1:
        expected = "expected exactly one of " + ", ".join(_KINDS) + ", which says what it declares"
        violations.append(FieldViolation(field=f"{path}:{first_line}", description=expected))
        return None
    request = kinds[0]()
    for name in _CALL_FIELDS:
        if name in fields:
            problems.append(
                Problem(path=name, line=fields[name].line, description="is no property of a resource; leave it out")
            )
    reader = Reader(base=folder_of(path), problems=problems)
    reader.message(root, request, "")
    if OWNER_LABEL in getattr(request, "labels", {}):
        where = f'labels["{OWNER_LABEL}"]'
        problems.append(Problem(path=where, line=line_of(root, where), description="is set by apply; leave it out"))
    if not problems:
        problems += [
            Problem(path=violation.field, line=line_of(root, violation.field), description=violation.description)
            for violation in violations_of(request)
        ]
    violations += [
        FieldViolation(field=f"{path}:{problem.line or first_line} {problem.path}", description=problem.description)
        for problem in sorted(problems, key=lambda problem: problem.line or 0)
    ]
    return None if problems else Declared(request=request, path=path, line=first_line)


def _duplicates(declared: Iterable[Declared]) -> Iterator[FieldViolation]:
    first: dict[str, Declared] = {}
    for resource in declared:
        earlier = first.setdefault(resource.name, resource)
        if earlier is not resource:
            yield FieldViolation(
                field=resource.place(), description=f"{resource.name} is declared twice; first at {earlier.place()}"
            )
