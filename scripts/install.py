"""Makes ``.venv`` from a lock file and installs Broadsheet into it, editable (``make install``).

A stamp of the inputs makes a second run a no-op. Every other run ends with exactly the locked
packages in ``.venv``: it installs packages again that an interrupted run left damaged, and removes
packages that are not in the lock. It needs only the standard library, because it runs before
anything is installed.
"""

import argparse
import csv
import fcntl
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts import torch_cpu

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "install.stamp"
LOGS = ENVIRONMENT / "install-logs"
"""The output of each pip process of a run, one file each."""
LOCK = os.open(ROOT, os.O_RDONLY)
"""Locked during a run.

pip inherits the lock: when its parent is killed, it still keeps other runs out.
"""
ACCELERATORS = ("cpu", "gpu")
PYTHON_MINIMUM, PYTHON_LIMIT = (3, 11), (3, 14)
KEPT = frozenset({"broadsheet", "pip", "setuptools", "wheel"})
"""Distributions that the environment keeps although the lock does not list them."""

PIPS_AT_ONCE = max(1, min(4, os.cpu_count() or 1))
"""pip unpacks on one core. On two cores, several of them halve the time, each with its share."""
SHARES = 8
"""Into how many parts the lock is cut.

Several for each pip, because packages differ in size by a factor of a thousand."""
PIP_POLL_INTERVAL_S = 0.1
PROGRESS_INTERVAL_S = 0.5
PLAIN_PROGRESS_INTERVAL_S = 10.0
"""How often a line is printed when the output is not a terminal."""
LOG_TAIL_LINES = 20
LOG_LINE_CHARS_MAX = 240
FETCHED = re.compile(r"^(?:Collecting|Processing|Requirement already satisfied:) ", flags=re.MULTILINE)


class InstallError(Exception):
    """The installation cannot continue; the message says why and what to do."""


class Distribution(NamedTuple):
    name: str
    version: str
    folder: Path
    """Its ``.dist-info``."""


def normalized(name: str) -> str:
    """The name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: Path) -> dict[str, str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pins = [line.split("==", 1) for line in lines if line and not line.startswith("#")]
    return {normalized(name): version for name, version in pins}


def site_packages() -> Path:
    return ENVIRONMENT / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def distributions() -> list[Distribution]:
    found = []
    for folder in site_packages().glob("*.dist-info"):
        name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
        found.append(Distribution(normalized(name), version, folder))
    return found


def is_whole(distribution: Distribution) -> bool:
    """Whether every file exists in its recorded size.

    pip writes RECORD last, so a pip that was killed leaves none.
    """
    try:
        with (distribution.folder / "RECORD").open(newline="", encoding="utf-8") as record:
            for path, _digest, size in csv.reader(record):
                # Compiled files mostly have no size in RECORD, and pip and Python rewrite them.
                if (
                    size
                    and not path.endswith(".pyc")
                    and (distribution.folder.parent / path).stat().st_size != int(size)
                ):
                    return False
    except (OSError, ValueError):
        return False
    return True


def remove_damaged() -> None:
    """Remove packages that an interrupted run left incomplete, so that pip installs them again."""
    for leftover in site_packages().glob("~*"):  # pip moves files there while it replaces a package
        shutil.rmtree(leftover, ignore_errors=True)
    for distribution in distributions():
        if not is_whole(distribution):
            shutil.rmtree(distribution.folder)


def fingerprint(accelerator: str) -> str:
    """A digest of everything that decides what gets installed: when it changes, a run installs."""
    digest = hashlib.sha256()
    for path in (ROOT / "requirements" / f"{accelerator}.lock", ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    # An environment works only at its own path and with the Python that made it.
    digest.update(f"{accelerator} {ENVIRONMENT} {platform.python_version()}".encode())
    return digest.hexdigest()


class Progress:
    """One line per stage; on a terminal the line is rewritten in place while the stage runs."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._in_place = sys.stdout.isatty()

    def run(self, stage: str, work: Callable[[], None], state: Callable[[], str] = lambda: "") -> None:
        """Do `work` in this thread while another thread prints `state()`."""
        started_s = time.monotonic()
        done = threading.Event()
        if not self._in_place:
            print(f"{stage} …", flush=True)
        watcher = threading.Thread(target=self._watch, args=(stage, state, started_s, done), daemon=True)
        watcher.start()
        try:
            work()
        finally:
            done.set()
            watcher.join()
            if self._in_place:
                print("\r\033[K", end="", flush=True)
        print(f"{stage}: done in {time.monotonic() - started_s:.0f} s", flush=True)

    def finish(self) -> None:
        print(f"Installed in {time.monotonic() - self._started_s:.0f} s. Try `make demo`.")

    def _watch(self, stage: str, state: Callable[[], str], started_s: float, done: threading.Event) -> None:
        while not done.wait(PROGRESS_INTERVAL_S if self._in_place else PLAIN_PROGRESS_INTERVAL_S):
            line = " ".join([stage, "…", *filter(None, [state()]), f"{time.monotonic() - started_s:.0f} s"])
            print(f"\r\033[K{line}" if self._in_place else f"  {line}", end="" if self._in_place else "\n", flush=True)


class Pip(NamedTuple):
    process: subprocess.Popen[bytes]
    log: Path


def start_pip(arguments: Sequence[str]) -> Pip:
    """Start the environment's pip with its output in a new log."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    log = LOGS / f"{len(list(LOGS.iterdir())) + 1:02d}.log"
    with log.open("w", encoding="utf-8") as output:
        print("$", " ".join(command), file=output, flush=True)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, pass_fds=[LOCK]
        )
    return Pip(process, log)


def pip(*commands: Sequence[str]) -> None:
    """Run the environment's pip once for each of `commands`, `PIPS_AT_ONCE` at a time.

    No pip is left running.

    Raises:
        InstallError: a pip failed; the others were killed.
    """
    waiting = list(commands)
    running: list[Pip] = []
    try:
        while waiting or running:
            while waiting and len(running) < PIPS_AT_ONCE:
                running.append(start_pip(waiting.pop(0)))
            time.sleep(PIP_POLL_INTERVAL_S)
            for ended in [item for item in running if item.process.poll() is not None]:
                running.remove(ended)
                if ended.process.returncode != 0:
                    raise InstallError(
                        f"{log_tail(ended.log)}\n\npip failed with status {ended.process.returncode}. "
                        f"The complete log is in {ended.log.relative_to(ROOT)}."
                    )
    finally:
        for item in running:
            item.process.kill()
        for item in running:
            item.process.wait()


def log_tail(log: Path) -> str:
    """The end of pip's output, without satisfied requirements, and with long lines cut."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    relevant = [line for line in lines if not line.startswith("Requirement already satisfied:")]
    return "\n".join(textwrap.shorten(line, LOG_LINE_CHARS_MAX) for line in relevant[-LOG_TAIL_LINES:])


def make_environment() -> None:
    """Keep an environment that works with this Python, or make a new environment."""
    if PYTHON.exists():
        probe = [str(PYTHON), "-c", "import pip, platform; print(platform.python_version())"]
        answer = subprocess.run(probe, capture_output=True, text=True, check=False)
        if answer.returncode == 0 and answer.stdout.strip() == platform.python_version():
            return
    try:
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InstallError(f"could not make {ENVIRONMENT.relative_to(ROOT)}: {error}") from error


def install_locked(pins: dict[str, str]) -> None:
    remove_damaged()
    extra = [item.name for item in distributions() if item.name not in pins.keys() | KEPT]
    if extra:
        pip(["uninstall", "--yes", *extra])
    command = ["install", "--no-deps", "--no-compile", "--progress-bar=off"]
    torch = f"torch=={pins['torch']}"
    requirements = [f"{name}=={version}" for name, version in pins.items() if name != "torch"]
    # torch is installed alone, so that the additional index is asked for nothing else.
    needs_index = torch == torch_cpu.REQUIREMENT and not is_installed("torch", pins["torch"])
    index = torch_cpu.index_arguments(PYTHON) if needs_index else []
    shares = [requirements[start::SHARES] for start in range(SHARES)]
    pip([*command, *index, torch], *([*command, *share] for share in shares))


def compile_bytecode() -> None:
    """Compile as pip does, but on all cores; it too skips files that don't compile (templates)."""
    command = [str(PYTHON), "-m", "compileall", "-qq", "-j", "0", str(site_packages())]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=False)


def is_installed(name: str, version: str) -> bool:
    return any((item.name, item.version) == (name, version) for item in distributions())


def install_project() -> None:
    pip(["install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])


def fetched() -> int:
    """How many packages this run has fetched, according to the logs.

    Each pip first fetches its whole share, then installs it.
    """
    return sum(len(FETCHED.findall(log.read_text(encoding="utf-8", errors="replace"))) for log in LOGS.glob("*.log"))


def install(accelerator: str) -> None:
    STAMP.unlink(missing_ok=True)
    lock = ROOT / "requirements" / f"{accelerator}.lock"
    pins = read_lock(lock)
    progress = Progress()

    def counts() -> str:
        installed = sum(item.name in pins for item in distributions())
        return f"{max(fetched(), installed)} fetched, {installed} installed of {len(pins)} packages,"

    progress.run(f"Environment .venv (Python {platform.python_version()})", make_environment)
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir()
    progress.run(f"Packages of {lock.relative_to(ROOT)}", lambda: install_locked(pins), counts)
    progress.run("Bytecode of the packages", compile_bytecode)
    progress.run("Broadsheet, editable", install_project)
    STAMP.write_text(fingerprint(accelerator), encoding="utf-8")
    progress.finish()


def wait_for_other_runs() -> None:
    """Take the lock that all runs in this folder share.

    It is held until this process and its pip processes have ended.
    """
    try:
        fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Waiting for another installation into .venv …", flush=True)
        fcntl.flock(LOCK, fcntl.LOCK_EX)


def is_current(accelerator: str) -> bool:
    try:
        return STAMP.read_text(encoding="utf-8") == fingerprint(accelerator)
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/install", description="Make .venv and install Broadsheet into it.")
    parser.add_argument("accelerator", help=f"what vLLM runs on: {' or '.join(ACCELERATORS)}")
    accelerator = parser.parse_args().accelerator
    if accelerator not in ACCELERATORS:
        parser.error(f"unknown accelerator {accelerator!r}: expected one of {', '.join(ACCELERATORS)}")
    wait_for_other_runs()
    if is_current(accelerator):
        print(".venv is up to date.")
        return 0
    if not PYTHON_MINIMUM <= sys.version_info[:2] < PYTHON_LIMIT:
        print(f"Broadsheet needs Python 3.11, 3.12 or 3.13; this is {platform.python_version()}.", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwinds, which ends pip too
    try:
        install(accelerator)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run it again to continue from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
