"""Resources as YAML files declare them, all checked at once.

A file may hold several documents, and a directory several files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from broadsheet.errors import InvalidSpec
from broadsheet.specs.nodes import Problem, documents, from_document, line_of
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
        for document in found:
            resource = _declared(path, document, violations)
            if resource is not None:
                declared.append(resource)
    violations += _duplicates(declared)
    if violations:
        count = len({violation.field.split(":")[0] for violation in violations})
        raise InvalidSpec(
            f"{count} {'file is' if count == 1 else 'files are'} not valid; nothing was applied",
            violations=tuple(violations),
        )
    return tuple(declared)


def _files(paths: Iterable[Path], violations: list[FieldViolation]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        if not found:
            violations.append(FieldViolation(field=f"{path}", description=f"has no {' or '.join(SUFFIXES)} files"))
        yield from found


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
    reader = Reader(base=path.resolve().parent, problems=problems)
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
