"""Real database servers for tests and benchmarks: started in a folder of their own, on loopback.

Debian's packages `postgresql` and `mariadb-server` serve. Neither server runs as root: where this
process does, they run as the users that the packages made.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 60.0
PASSWORD = "s3cret-" + secrets.token_hex(4)


class MissingServerError(RuntimeError):
    """A server's programs are not installed; the message says how to install them."""


def _program(name: str, package: str) -> Path:
    """A server's program: on the path, or where Debian keeps it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    # Debian's postgresql programs of every version lie side by side, the newest last.
    debian = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[4])
    )
    if debian:
        return debian[-1]
    if found is None:
        raise MissingServerError(f"{name} is not installed; run: apt-get install -y {package}")
    return Path(found).resolve()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One database server; `start` and `stop` may follow each other. A context manager."""

    user = ""
    scheme = ""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="optlayers-"))
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = self.user if os.getuid() == 0 else None
        if self.owner:
            shutil.chown(self.root, self.owner)
        self.root.chmod(0o755)
        try:
            self._initialise()
            self.start()
            self._secure()
        except BaseException:
            self.close()
            raise

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            list(map(str, command)),
            user=self.owner,
            cwd=self.root,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{Path(command[0]).name}: {done.stderr.decode().strip()}")

    def _initialise(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _connect(self) -> None:
        """Open and close a connection; raises where the server does not answer."""
        raise NotImplementedError

    def _secure(self) -> None:
        """What is done once, after the first start."""

    def execute(self, statement: str) -> None:
        """Run one statement as the administrator."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self.root / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                user=self.owner,
                cwd=self.root,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._connect()
                return
            except Exception as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    tail = (self.root / "server.log").read_text(errors="replace")[-1500:]
                    raise RuntimeError(f"{self.scheme} does not start: {error}\n{tail}") from None
                time.sleep(0.1)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop; SIGINT breaks all connections off, SIGKILL is a crash."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(timeout=60)

    def close(self) -> None:
        """Stop and remove everything."""
        with contextlib.suppress(Exception):
            self.stop()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, database: str, password: str = PASSWORD) -> str:
        """The URL of a database on this server."""
        return f"{self.scheme}://tester:{password}@127.0.0.1:{self.port}/{database}"

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new, empty database."""
        name = f"t{secrets.token_hex(5)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self._drop(name)

    def _drop(self, name: str) -> None:
        self.execute(f"DROP DATABASE {name}")


class Postgres(Server):
    """A PostgreSQL server that asks for a password, on loopback."""

    user = "postgres"
    scheme = "postgresql+psycopg"

    def _initialise(self) -> None:
        secret = self.root / "password"
        secret.write_text(PASSWORD)
        if self.owner:
            shutil.chown(secret, self.owner)
        self._run(
            _program("initdb", "postgresql"),
            *("-D", self.root / "data", "-U", "tester", "--pwfile", secret, "-A", "scram-sha-256"),
            *("--no-sync", "-E", "UTF8", "--locale=C"),
        )

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.root),
            "max_connections": "200",
            # A fsync is a real cost of every commit and stays on.
        }
        options = [x for key, value in settings.items() for x in ("-c", f"{key}={value}")]
        return [str(_program("postgres", "postgresql")), "-D", str(self.root / "data"), *options]

    def _connect(self) -> None:
        self.execute("SELECT 1")

    def execute(self, statement: str) -> None:
        """Run one statement as the administrator."""
        import psycopg

        where = f"host=127.0.0.1 port={self.port} user=tester password={PASSWORD} dbname=postgres"
        with psycopg.connect(where, autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement.encode())

    def _drop(self, name: str) -> None:
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")


class MariaDB(Server):
    """A MariaDB server with a user that has a password, on loopback."""

    user = "mysql"
    scheme = "mysql+pymysql"

    def _initialise(self) -> None:
        self._run(
            _program("mariadb-install-db", "mariadb-server"),
            *("--no-defaults", f"--datadir={self.root}/data"),
            # So that whoever started it may set it up; the socket lies in a folder of its own.
            *("--auth-root-authentication-method=normal", "--skip-test-db"),
        )

    def _command(self) -> list[str]:
        return [
            str(_program("mariadbd", "mariadb-server")),
            "--no-defaults",
            f"--datadir={self.root}/data",
            f"--port={self.port}",
            f"--socket={self.root}/socket",
            f"--pid-file={self.root}/pid",
            "--bind-address=127.0.0.1",
            "--max-connections=200",
        ]

    def _connect(self) -> None:
        self.execute("SELECT 1")

    def _secure(self) -> None:
        for statement in (
            f"CREATE USER tester@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'",
            "GRANT ALL ON *.* TO tester@'127.0.0.1'",
        ):
            self.execute(statement)

    def execute(self, statement: str) -> None:
        """Run one statement as the administrator."""
        import pymysql

        connection = pymysql.connect(unix_socket=f"{self.root}/socket", user="root")
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop; SIGTERM is its clean end, SIGKILL is a crash."""
        super().stop(signal.SIGTERM if number == signal.SIGINT else number)


class PgBouncer(Server):
    """PgBouncer in transaction mode before a PostgreSQL server, over few connections."""

    user = "postgres"
    scheme = "postgresql+psycopg"

    def __init__(self, server: Postgres) -> None:
        self.server = server
        super().__init__()

    def _initialise(self) -> None:
        behind = f"host=127.0.0.1 port={self.server.port} user=tester password={PASSWORD}"
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": "4",
            # From 1.21 on it can keep prepared statements apart.
            **({"max_prepared_statements": "0"} if self._version() >= (1, 21) else {}),
        }
        lines = ["[databases]", f"* = {behind}", "[pgbouncer]"]
        lines += [f"{key} = {value}" for key, value in settings.items()]
        (self.root / "pgbouncer.ini").write_text("\n".join(lines) + "\n")

    def _version(self) -> tuple[int, ...]:
        command = [str(_program("pgbouncer", "pgbouncer")), "--version"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return tuple(map(int, said.split()[1].split(".")))

    def _command(self) -> list[str]:
        return [str(_program("pgbouncer", "pgbouncer")), str(self.root / "pgbouncer.ini")]

    def _connect(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), 1):
            pass
