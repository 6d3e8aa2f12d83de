from __future__ import annotations

import resource
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from protocol.transport.open_files import allow_connections
soft, hard, count = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(allow_connections(count), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "count", "printed"),
    [
        (256, 4096, 2048, "2048 2560 4096"),
        (256, 1024, 2048, "512 1024 1024"),
        (4000, 4096, 2048, "2048 4000 4096"),
        (256, 300, 2048, "1 300 300"),
    ],
    ids=["raised as needed", "raised as far as possible", "enough already", "far too low"],
)
def test_the_limit_of_open_files_fits_the_connections(soft: int, hard: int, count: int, printed: str) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= hard, "the tests need 4,096 open files"
    command = [sys.executable, "-c", SCRIPT, str(soft), str(hard), str(count)]
    assert subprocess.check_output(command, text=True).strip() == printed
