"""The import contract `pure`, for import-linter: it reads in the docstrings to which modules it
applies.

A module is held to it when its own docstring, or that of a package around it, says so with a
sentence that begins with `Pure`. So no list has to be kept, and no module can claim what is not so.
"""

import ast
import re
from importlib import util
from pathlib import Path

from grimp import ImportGraph
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.domain import fields
from importlinter.domain.contract import ContractCheck
from importlinter.domain.imports import ModuleExpression

CLAIM = re.compile(r"(?:^|[.?!:]\s+)Pure\b", flags=re.MULTILINE)
EXCEPT = re.compile(r"Pure,\s+but\s+for\s+(`[a-z_.]+`(?:\s+and\s+`[a-z_.]+`)*)")
"""What a package's docstring leaves out of its claim: one name, or several with `and`."""


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def module_file(module: str) -> Path | None:
    """The source of a module of this project; None: it has none, or is not ours."""
    root, *rest = module.split(".")
    spec = util.find_spec(root)
    if spec is None or spec.submodule_search_locations is None:
        return None
    path = Path(next(iter(spec.submodule_search_locations))).joinpath(*rest)
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


def claims(module: str) -> bool:
    """Whether the module, or a package around it, says that it is pure."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        path = module_file(".".join(parts[:length]))
        text = docstring(path) if path is not None else ""
        if CLAIM.search(text) is None:
            continue
        left_out = EXCEPT.search(text)
        names = re.findall(r"[a-z_.]+(?=`)", left_out[1]) if left_out is not None else []
        if not any(f"{module}.".startswith(f"{name}.") for name in names):
            return True
    return False


class PureContract(ForbiddenContract):
    """Forbids modules that call themselves pure to import any of `forbidden_modules`, directly or
    not."""

    type_name = "pure"

    source_modules = fields.SetField(subfield=fields.ModuleExpressionField(), required=False)
    as_packages = fields.BooleanField(required=False, default=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        pure = sorted(module for module in graph.modules if module_file(module) is not None and claims(module))
        if not pure:
            raise ValueError("no module calls itself pure: is the docstrings' wording another than this contract's?")
        # The base class reads its fields from the instance, where the configuration would have put
        # them.
        setattr(self, "source_modules", {ModuleExpression(module) for module in pure})  # noqa: B010

        return super().check(graph, verbose)
