"""The pages of the documentation: links resolve, prose is narrow, decisions have one form."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOPICS = sorted(path for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "README.md")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PROSE_COLUMNS_MAX = 100
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> Iterator[str]:
    """The lines that are neither code, nor rows of tables, nor longer because of a link."""
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(("|", "    ")) and "](" not in line:
            yield line


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_within_the_repository_resolve(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        linked = page.parent / target if target else page
        assert linked.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{name(page)} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_prose_ends_at_100_columns(page: Path) -> None:
    assert [line for line in prose(page.read_text(encoding="utf-8")) if len(line) > PROSE_COLUMNS_MAX] == []


@pytest.mark.parametrize("page", TOPICS, ids=name)
def test_each_decision_has_date_context_decision_and_consequence(page: Path) -> None:
    _, *entries = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    dates = [entry[:10] for entry in entries]
    assert dates
    assert all(re.match(r"\d{4}-\d\d-\d\d: \S", entry) for entry in entries)
    assert dates == sorted(dates), "newest last"
    for entry in entries:
        assert re.findall(r"^\*\*(\w+)\.\*\*", entry, flags=re.MULTILINE) == ["Context", "Decision", "Consequence"]


def test_the_index_names_every_file_of_decisions() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    linked = {target for target, _ in LINK.findall(index)}
    assert linked == {path.name for path in TOPICS}


def test_documented_make_targets_exist() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"m([a-z-]+)\s*\x1b", listed))
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^    make ([a-z-]+)", contributing, flags=re.MULTILINE))
    assert named
    assert named <= targets


def test_tests_that_pages_name_exist() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for page in PAGES:
        for named in re.findall(r"\b(test_\w+(?:\.py)?)", page.read_text(encoding="utf-8")):
            assert named in files or f"def {named}(" in tests, f"{name(page)} names {named}"
