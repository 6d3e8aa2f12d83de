"""Runs the command line in this process, for tests."""

from __future__ import annotations

import pytest

from broadsheet.cli import main

SIMULATED = ("--engine", "SIMULATED")
"""Flags for a model that needs no weights."""


class Cli:
    """Runs commands, and keeps the output of the last command."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *arguments: str) -> int:
        self._capsys.readouterr()
        code = main(arguments)
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.out + self.err
        return code
