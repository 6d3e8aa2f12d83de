"""`broadsheet controlplane keys`: the private keys that sign the heads of snapshots."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from controlplane import errors, settings
from protocol.arguments import not_utf8
from protocol.signing.keys import PrivateKey
from protocol.transport.key_files import (
    KeyFilesError,
    make_private_key,
    private_key_files,
    read_private_keys,
)

COMMANDS = ("keys",)

REMOVE = "--remove"

USAGE = """usage: broadsheet controlplane keys COMMAND [--signing-keys FILE|DIR | --data-dir DIR]

  generate            make the first key
  list                list the keys: id and file
  public              print the public keys, for --trusted-keys of data planes
  rotate              make another key, which signs beside those that are there
  rotate --remove ID  remove a key, once every data plane trusts another one
"""


def run(command: str, arguments: Sequence[str]) -> None:
    """Run `keys` on the keys that the control plane's flags and environment name.

    A running control plane takes over what was changed within seconds.

    Args:
        command: `keys`.
        arguments: What to do, then flags of the control plane.

    Raises:
        errors.SetupError: It is not possible; says why.
    """
    if (fault := not_utf8(arguments, {}, settings.ENV_PREFIX)) is not None:
        raise errors.SetupError(f"{fault} is not UTF-8")
    if not arguments or arguments[0] not in _ACTIONS:
        raise errors.SetupError(f"{command}: got {' '.join(arguments) or 'no command'}\n{USAGE}")
    action, rest = arguments[0], list(arguments[1:])
    removed = _taken(rest) if action == "rotate" else None
    path = settings.load(rest).signing_keys_path
    try:
        text = _remove(path, removed) if removed is not None else _ACTIONS[action](path)
    except KeyFilesError as error:
        raise errors.SetupError(str(error)) from error
    sys.stdout.write(text)


def _taken(arguments: list[str]) -> str | None:
    """The id after --remove, which is taken out of `arguments`; None: it is not there."""
    if REMOVE not in arguments:
        return None
    place = arguments.index(REMOVE)
    if place + 1 == len(arguments):
        raise errors.SetupError(f"{REMOVE}: got no key id; `keys list` shows them")
    key_id = arguments[place + 1]
    del arguments[place : place + 2]
    return key_id


def _generate(path: Path) -> str:
    if _keys_if_any(path):
        raise errors.SetupError(f"{path}: there are keys already; `keys rotate` makes another one")
    return _made(path)


def _rotate(path: Path) -> str:
    keys = read_private_keys(path)
    return _made(path) + (
        "It signs beside the old ones. Next:\n"
        "  1. give `keys public` to every data plane as --trusted-keys (they read the file again)\n"
        f"  2. then `keys rotate {REMOVE} {keys[0].public.id}`\n"
    )


def _made(path: Path) -> str:
    if path.is_file():
        raise errors.SetupError(f"{path}: it is a file; keys are made in a directory of their own")
    file = make_private_key(path)
    return f"made key {file.stem} in {file}\n"


def _list(path: Path) -> str:
    return "".join(f"{key.public.id}  {file}\n" for file in private_key_files(path) for key in read_private_keys(file))


def _public(path: Path) -> str:
    return "".join(f"# key {key.public.id}\n{key.public.to_pem().decode()}" for key in read_private_keys(path))


def _remove(path: Path, key_id: str) -> str:
    keys = read_private_keys(path)
    if len(keys) == 1:
        raise errors.SetupError(
            f"{path}: it has one key only, without which nothing is signed; `keys rotate` comes first"
        )
    for file in private_key_files(path):
        held = [key.public.id for key in read_private_keys(file)]
        if key_id not in held:
            continue
        if len(held) > 1:
            raise errors.SetupError(f"{file}: it holds several keys; remove the block of key {key_id} by hand")
        try:
            file.unlink()
        except OSError as error:
            raise errors.SetupError(f"{file}: {error.strerror}") from error
        return f"removed key {key_id}: {file}\n"
    raise errors.SetupError(f"{path}: got key {key_id}; there are {', '.join(key.public.id for key in keys)}")


def _keys_if_any(path: Path) -> Sequence[PrivateKey]:
    return read_private_keys(path) if path.exists() and private_key_files(path) else ()


_ACTIONS: Mapping[str, Callable[[Path], str]] = {
    "generate": _generate,
    "list": _list,
    "public": _public,
    "rotate": _rotate,
}
