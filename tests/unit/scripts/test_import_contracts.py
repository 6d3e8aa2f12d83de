"""The import contracts fail when they are broken: each case breaks a copy of the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.pure_contract import claims, module_file

ROOT = Path(__file__).resolve().parents[3]
TREES = ("clients/python/broadsheet", "controlplane", "dataplane", "protocol", "scripts")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of the tree that the contracts are about."""
    root = tmp_path_factory.mktemp("tree")
    for tree in TREES:
        shutil.copytree(ROOT / tree, root / tree, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(root / "clients" / "python"), str(root)])
    return subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_unbroken_tree_passes(copy: Path) -> None:
    result = lint(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("controlplane/catalog/domain.py", "import controlplane.store.store", "import downwards only BROKEN"),
        ("dataplane/relay/messages.py", "import dataplane.agent.agent", "import downwards only BROKEN"),
        (
            "controlplane/catalog/etags.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import controlplane.catalog.convert",
            "not even under TYPE_CHECKING BROKEN",
        ),
        ("controlplane/catalog/routes.py", "import time", "imports no framework BROKEN"),
        ("dataplane/snapshot/snapshot.py", "import asyncio", "imports no framework BROKEN"),
        ("clients/python/broadsheet/serving.py", "import controlplane.errors", "and its dependencies BROKEN"),
        ("controlplane/rpc/server.py", "import sqlalchemy", "SQL is for the store alone BROKEN"),
    ],
)
def test_a_broken_contract_is_named(copy: Path, module: str, line: str, contract: str) -> None:
    path = copy / module
    unbroken = path.read_text(encoding="utf-8")
    path.write_text(f"{unbroken}\n{line}\n", encoding="utf-8")
    try:
        result = lint(copy)
    finally:
        path.write_text(unbroken, encoding="utf-8")
    assert result.returncode == 1
    assert contract in " ".join(result.stdout.split()), result.stdout


@pytest.mark.parametrize(
    ("module", "pure"),
    [
        ("controlplane.catalog.domain", True),
        ("protocol.names", True),
        ("protocol.transport.tls_files", False),
        ("controlplane.__main__", False),
    ],
)
def test_a_module_is_pure_when_it_or_its_package_says_so(module: str, pure: bool) -> None:
    assert module_file(module) is not None
    assert claims(module) is pure


def test_a_module_of_others_claims_nothing() -> None:
    assert not claims("asyncio")
