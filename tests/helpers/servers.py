"""A real PostgreSQL and a real `mlflow server`, each with a place of its own, for the tests that need them."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import closing
from pathlib import Path

import psycopg2

from helpers.compose_file import services
from helpers.faults import wait_for

PASSWORD = secrets.token_hex()  # made up, as a run keeps what is uncommitted in this very file
POSTGRES_HOME = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda path: int(path.parent.name))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """The `mlflow server` of compose.yaml, here: over a database, by default SQLite, with artifacts of its own."""

    def __init__(self, directory: Path, database: str | None = None) -> None:
        directory.mkdir()
        self.directory, self.port, self.process = directory, free_port(), None
        self.database = database or f"sqlite:///{directory}/mlflow.db"

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Server":
        composed = services(POSTGRES_PASSWORD=PASSWORD)["server"]
        here = {"0.0.0.0": "127.0.0.1", "5000": str(self.port), "/output/artifacts": str(self.directory / "artifacts")}
        words = [here.get(word, word) for word in composed["command"][1:]]
        environment = os.environ | composed["environment"] | {"MLFLOW_BACKEND_STORE_URI": self.database}
        with (self.directory / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *words],
                cwd=self.directory, env=environment, start_new_session=True, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for(self.answers, what="the server")
        return self

    def answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=1).status == 200
        except OSError:
            return False

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Postgres:
    """A PostgreSQL cluster of its own behind a socket in a directory, with a password and nothing on the network."""

    def __init__(self) -> None:
        # Short, as a socket's path must be, and not below pytest's directory, into which PostgreSQL's user cannot go.
        self.directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        self.data = self.directory / "data"
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        if self.user:
            for path in (self.directory, secret):
                shutil.chown(path, self.user)
        self._run("initdb", "--pgdata", self.data, "--username", "postgres", "--auth", "scram-sha-256",
                  "--pwfile", secret, "--no-sync", "--encoding", "UTF8", "--locale", "C")  # fmt: skip

    @property
    def uri(self) -> str:
        """The address for MLflow."""
        return f"postgresql+psycopg2://postgres:{PASSWORD}@/postgres?host={self.directory}"

    @property
    def uri_without_password(self) -> str:
        """The address as compose.yaml has it: the password is in PGPASSWORD."""
        return self.uri.replace(f":{PASSWORD}@", "@")

    @property
    def libpq_uri(self) -> str:
        """The same for the driver itself, which is not asked for by name there."""
        return self.uri.replace("+psycopg2", "")

    def start(self) -> "Postgres":
        options = f"-c listen_addresses= -c unix_socket_directories={self.directory} -c fsync=off"
        self._run("pg_ctl", "--pgdata", self.data, "--log", self.directory / "log", "--options", options, "--wait",
                  "--timeout", "120", "start")  # fmt: skip
        return self

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "--pgdata", self.data, "--mode", mode, "--wait", "--timeout", "120", "stop")

    def rows(self, query: str) -> list[tuple]:
        """What the database itself has, past MLflow."""
        with closing(psycopg2.connect(self.libpq_uri)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def remove(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.directory)

    def _run(self, program: str, *words: object) -> None:
        command = [str(POSTGRES_HOME / program), *map(str, words)]
        done = subprocess.run(
            command, user=self.user, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def lacks_postgres() -> str | None:
    """What is missing for a PostgreSQL of our own, if anything."""
    if POSTGRES_HOME is None:
        return "PostgreSQL's programs are not below /usr/lib/postgresql: make .venv/postgresql"
    if os.geteuid() == 0 and "postgres" not in (entry.pw_name for entry in pwd.getpwall()):
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


def start_ui(folder, environment, before=()):
    """Start `reproduce ui` in a folder: the process, and the address of the trials that it prints once it answers.

    Its output goes into a file: MLflow prints a line for each request, and stops where nobody empties a pipe.
    """
    log, begin = folder / "ui.log", "the trials, charted: "
    command = [*before, sys.executable, "-m", "reproduce", "ui", "--port", str(free_port())]
    with log.open("w") as file:
        running = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)

    def printed():
        return [line.removeprefix(begin) for line in log.read_text().splitlines() if line.startswith(begin)]

    wait_for(lambda: printed() or running.poll() is not None, what="the address of the trials")
    assert running.poll() is None, log.read_text()
    return running, printed()[0]
