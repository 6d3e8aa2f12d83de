"""Resolves pyproject.toml into the complete, exact pins of ``requirements/*.lock`` (``make lock``).

The locks of the peers that ``make bench-ingress`` compares with are made by name
(``scripts/lock bench-litellm``).

pip resolves in a throwaway environment and installs nothing (``--dry-run --report``). The locks are
made for Linux on x86_64 with the Python that runs this. They are complete, so `scripts/install.py`
installs them with ``--no-deps``. So the CPU lock can leave out packages that pip's resolver insists
on. Standard library only.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

from scripts import torch_cpu

ROOT = Path(__file__).resolve().parent.parent
COMMON_EXTRAS = ("controlplane", "dataplane", "dev")
ACCELERATORS = ("cpu", "gpu")
PEERS = {
    # Not the newest: 1.107.0 was a compromised release, and the proxies of 1.108.14, 1.109.3 and
    # 1.110.2 need packages that PyPI does not have.
    "bench-litellm": ["litellm[proxy]==1.106.12"],
    "bench-vllm-router": ["vllm-router==0.1.17"],
}
LEFT_OUT = {
    # PyPI's builds of these need a CUDA build of torch. Beside a CPU build, `import vllm` fails
    # with "operator torchvision::nms does not exist". Text models and Whisper need none of them;
    # docs/decisions/packaging.md says which image models do.
    "cpu": {"torchaudio", "torchcodec", "torchvision"},
    "gpu": set[str](),
}
RULED_OUT = {
    "cpu": list[str](),
    # pip prefers a local version to the plain one, so a CPU build in a configured index would win.
    "gpu": ["torch!=2.13.0+cpu"],
}


def requirements(accelerator: str) -> list[str]:
    if accelerator in PEERS:
        return PEERS[accelerator]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"]]
    for extra in (*COMMON_EXTRAS, accelerator):
        wanted += extras[extra]
    return wanted


def normalized(name: str) -> str:
    """The name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve(python: Path, accelerator: str, report: Path) -> dict[str, str]:
    """Let pip resolve the whole set, and return name → version."""
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--no-input",
        "--progress-bar=off",
    ]
    command += ["--report", str(report)]
    if accelerator == "cpu":
        command += torch_cpu.index_arguments(python)
    subprocess.run([*command, *requirements(accelerator), *RULED_OUT.get(accelerator, ())], check=True)
    installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {normalized(item["metadata"]["name"]): item["metadata"]["version"] for item in installed}


def render(accelerator: str, pins: dict[str, str]) -> str:
    extras = ",".join((*COMMON_EXTRAS, accelerator))
    python = ".".join(map(str, sys.version_info[:2]))
    made = f"`make lock` from pyproject.toml: broadsheet[{extras}]"
    if accelerator in PEERS:
        made = f"`scripts/lock {accelerator}`: {', '.join(PEERS[accelerator])}"
    lines = [
        f"# Made by {made}, Linux x86_64, Python {python}.",
        "# Complete: install with `pip install --no-deps`, as scripts/install.py does.",
    ]
    left_out = sorted(LEFT_OUT.get(accelerator, set()) & pins.keys())
    if left_out:
        lines.append(f"# Left out: {', '.join(left_out)} (scripts/lock.py says why).")
    lines += [f"{name}=={version}" for name, version in sorted(pins.items()) if name not in left_out]
    return "\n".join(lines) + "\n"


def main() -> int:
    known = [*ACCELERATORS, *PEERS]
    parser = argparse.ArgumentParser(description="Resolve requirements/*.lock again from pyproject.toml.")
    parser.add_argument("accelerators", nargs="*", help=f"{', '.join(known)}; default: cpu gpu")
    accelerators = parser.parse_args().accelerators or list(ACCELERATORS)
    for accelerator in accelerators:
        if accelerator not in known:
            parser.error(f"unknown set {accelerator!r}: expected one of {', '.join(known)}")
    with tempfile.TemporaryDirectory() as scratch:
        environment = Path(scratch, "venv")
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
        for accelerator in accelerators:
            print(f"== {accelerator}", flush=True)
            try:
                pins = resolve(python, accelerator, Path(scratch, f"{accelerator}.json"))
            except subprocess.CalledProcessError:
                print(f"pip could not resolve the {accelerator} set; its message is above.", file=sys.stderr)
                return 1
            lock = ROOT / "requirements" / f"{accelerator}.lock"
            lock.write_text(render(accelerator, pins), encoding="utf-8")
            left_out = LEFT_OUT.get(accelerator, set()) & pins.keys()
            print(f"{lock.relative_to(ROOT)}: {len(pins) - len(left_out)} packages", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
