"""Resources as files declare them: several documents per file, several files per directory, all
checked at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import yaml

from broadsheet.errors import InvalidSpec
from broadsheet.specs.nodes import Problem, documents, from_document, line_of
from broadsheet.specs.reader import Reader
from broadsheet.types import RegisterAdapterRequest, RegisterModelRequest, SetRouteRequest
from protocol import names
from protocol.validation import FieldViolation, violations_of

Request: TypeAlias = RegisterModelRequest | RegisterAdapterRequest | SetRouteRequest

SUFFIXES = (".yaml", ".yml")

OWNER_LABEL = "broadsheet.dev/applied-by"
"""Says who applied a resource: what `apply --prune` may delete. Set by `apply`, and by nothing
else."""

_KINDS: Mapping[str, type[Request]] = {
    "model_id": RegisterModelRequest,
    "adapter_id": RegisterAdapterRequest,
    "route_id": SetRouteRequest,
}
"""By the field that only this kind has, and needs."""

_OF_THE_CALL = ("etag", "must_create", "request_id", "validate_only")
"""Fields of a request that say how to call, not what is to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One resource as a file declares it."""

    request: Request
    path: Path
    line: int
    """Of its document's beginning, from 1."""

    @property
    def name(self) -> str:
        """Resource name."""
        return resource_name(self.request)

    def place(self, field: str = "") -> str:
        """Where it is, for an error: `dir/models.yaml:12 spec.engine`."""
        return f"{self.path}:{self.line} {field}".rstrip()


def resource_name(request: Request) -> str:
    """The resource that a request makes."""
    if isinstance(request, RegisterModelRequest):
        return names.model_name(request.model_id)
    if isinstance(request, RegisterAdapterRequest):
        return f"{request.parent}/adapters/{request.adapter_id}"
    return names.route_name(request.route_id)


def load_declared(paths: Iterable[Path]) -> tuple[Declared, ...]:
    """Every resource that these files, and the YAML files below these directories, declare.

    Raises:
        InvalidSpec: Any of them is wrong. Its violations are those of all files, each with file and
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
            one = _declared(path, document, violations)
            if one is not None:
                declared.append(one)
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
    for name in _OF_THE_CALL:
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
    for one in declared:
        earlier = first.setdefault(one.name, one)
        if earlier is not one:
            yield FieldViolation(
                field=one.place(), description=f"{one.name} is declared twice; first at {earlier.place()}"
            )
