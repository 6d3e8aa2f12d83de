"""Generates the Python code of ``protos/`` (``make proto``), or checks it (``--check``).

Messages and stubs come from protoc. Their ``.pyi`` files come from mypy-protobuf, because protoc's
own ``--pyi_out`` leaves the gRPC stubs untyped and drops the comments. The rules of protovalidate
need ``buf/validate/validate.proto``, which is vendored. Its generated module moves to
``broadsheet._vendor``, because a top-level package ``buf`` would collide with any other
distribution that ships one.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGES = ROOT / "clients" / "python"
"""Where the generated tree begins: below it, the proto package path is the Python import path."""

VENDORED_IMPORT = re.compile(r"^(\s*)from buf\.validate import", flags=re.MULTILINE)
SERVICE = re.compile(r"^service\s", flags=re.MULTILINE)
GENERATED_FOLDERS = (Path("broadsheet/v1"), Path("broadsheet/_vendor"))
GENERATED_FILES = "*_pb2*.py*"


def protoc(destination: Path, protos: list[Path], *plugins: str) -> None:
    """Run protoc with plug-ins, which are named as in its own ``--{plugin}_out`` flags."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}"]
    for plugin in plugins:
        if plugin.startswith("mypy"):
            executable = Path(sys.executable).parent / f"protoc-gen-{plugin}"
            command += [f"--plugin=protoc-gen-{plugin}={executable}", f"--{plugin}_out=quiet:{destination}"]
        else:
            command.append(f"--{plugin}_out={destination}")
    subprocess.run([*command, *(str(path) for path in protos)], check=True)


def generate(destination: Path) -> None:
    """Write the whole generated tree under `destination`, laid out as under ``clients/python``."""
    api = sorted((PROTOS / "broadsheet").rglob("*.proto"))
    vendored = sorted((PROTOS / "buf").rglob("*.proto"))
    services = [path for path in api if SERVICE.search(path.read_text(encoding="utf-8"))]
    vendor = destination / "broadsheet" / "_vendor"
    vendor.mkdir(parents=True)
    protoc(destination, api, "python", "mypy")
    protoc(destination, services, "grpc_python", "mypy_grpc")
    protoc(vendor, vendored, "python", "mypy")
    for path in generated(destination):
        text = path.read_text(encoding="utf-8")
        path.write_text(VENDORED_IMPORT.sub(r"\1from broadsheet._vendor.buf.validate import", text), encoding="utf-8")


def generated(packages: Path) -> Iterator[Path]:
    for folder in GENERATED_FOLDERS:
        found = sorted((packages / folder).rglob(GENERATED_FILES))
        yield from (path for path in found if path.suffix != ".pyc")


def contents(packages: Path) -> dict[Path, bytes]:
    return {path.relative_to(packages): path.read_bytes() for path in generated(packages)}


def add_package_files() -> None:
    """Make every folder with generated code a regular package; keep files that exist already."""
    for folder in {path.parent for path in generated(PACKAGES)}:
        while folder != PACKAGES / "broadsheet":
            init = folder / "__init__.py"
            if not init.exists():
                init.write_text("", encoding="utf-8")
            folder = folder.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the committed code is stale")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            generate(Path(scratch))
        except subprocess.CalledProcessError as error:
            return int(error.returncode)
        fresh = contents(Path(scratch))
    committed = contents(PACKAGES)
    stale = sorted(path for path in fresh.keys() | committed.keys() if fresh.get(path) != committed.get(path))
    if options.check:
        for path in stale:
            print(f"stale: {PACKAGES.relative_to(ROOT) / path}")
        print("Run `make proto` and commit." if stale else f"{len(fresh)} generated files are fresh.")
        return 1 if stale else 0
    for path in stale:
        target = PACKAGES / path
        if path not in fresh:
            target.unlink()
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(fresh[path])
    add_package_files()
    print(f"{len(fresh)} generated files, {len(stale)} of them changed.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
