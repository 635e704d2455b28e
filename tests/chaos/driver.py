"""The driver: sends, kills, freezes, cuts the network, restarts, and counts what came out.

Every message of kind "good" or "late" must give exactly one entry in ``results``; the dead letters must be the poison
and the killers, no other; the counter in the storage must equal the good messages.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import redis as peer

from chaos.network import Network
from streammachine.redis.embedded.server import find_binary
from support.valkey import free_port

WORKER = Path(__file__).with_name("worker.py")
LATE = 50  # every so many good messages one comes back through the retry companion
CUT_PAUSE = (0.01, 0.04)  # seconds between two cuts
FREEZE = 2.5  # seconds a worker is stopped: well beyond the lease of 1.5


@dataclass
class Plan:
    """What to do. The same seed makes the same decisions, though not at the same message."""

    messages: int = 20_000
    workers: int = 4
    kills: int = 12
    zombies: int = 6
    cuts: int = 0
    restarts: tuple[int, ...] = (signal.SIGKILL, signal.SIGTERM)
    poison: int = 7
    killers: int = 2
    seed: int = 1
    deadline: float = 600.0


@dataclass
class Report:
    """What came out."""

    plan: Plan
    seconds: float = 0.0
    kills: int = 0
    zombies: int = 0
    cuts: int = 0
    restarts: int = 0
    worker_deaths: int = 0  # by messages that kill
    missing: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    dead_letters: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    counted: int = 0
    left_pending: int = -1
    stuck: int = 0  # what nobody had finished when the time was up

    @property
    def good(self) -> int:
        """Messages that must be answered."""
        return self.plan.messages - self.plan.poison - self.plan.killers

    def problems(self) -> list[str]:
        """What must not be; empty when all held."""
        wanted = {f"poison-{n}" for n in range(self.plan.poison)} | {f"killer-{n}" for n in range(self.plan.killers)}
        found = []
        if self.missing:
            found.append(f"{len(self.missing)} missing: {self.missing[:10]}")
        if self.duplicates:
            found.append(f"{len(self.duplicates)} repeated: {self.duplicates[:10]}")
        if self.dead_letters != Counter(wanted):
            found.append(f"dead letters: {sorted(self.dead_letters.elements())}")
        if self.counted != self.good:
            found.append(f"the counter says {self.counted} of {self.good}")
        if self.stuck:
            found.append(f"{self.stuck} stuck")
        if self.left_pending:
            found.append(f"{self.left_pending} left pending")
        return found

    def __str__(self) -> str:
        plan = self.plan
        return (
            f"seed {plan.seed}: {plan.messages} messages, {plan.workers} workers, {self.kills} kills (-9), "
            f"{self.zombies} zombies, {self.cuts} cuts, {self.restarts} Valkey restarts, "
            f"{self.worker_deaths} deaths by messages, {self.seconds:.0f} s -> "
            f"{len(self.missing)} missing, {len(self.duplicates)} duplicates, "
            f"{self.stuck} stuck, "
            f"{sum(self.dead_letters.values())} dead letters {dict(self.reasons)}, counter {self.counted}/{self.good}: "
            + ("OK" if not self.problems() else "; ".join(self.problems()))
        )


class Valkey:
    """A server with an append-only file that is flushed at every write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> Any:
        return peer.Redis(port=self.port, socket_timeout=5, decode_responses=True)

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        with (self.folder / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                [find_binary(), *options, "--appendonly", "yes", "--appendfsync", "always"],
                stdin=subprocess.DEVNULL,
                stdout=log,
            )
        until(self.answers, "Valkey answers")

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except peer.RedisError:
            return False

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None


class Chaos:
    """One run."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.plan = plan
        self.report = Report(plan)
        self._random = random.Random(plan.seed)
        self._folder = folder
        self._server = Valkey(folder / "valkey")
        self._network = Network(self._server.port)
        self._workers: list[subprocess.Popen[bytes]] = []
        self._killed: set[int] = set()
        self._frozen: dict[int, float] = {}  # pid -> when it goes on
        self._say = say

    def run(self) -> Report:
        """Do it; the report says what came out."""
        began = time.monotonic()
        self._server.start()
        try:
            self._workers = [self._spawn() for _ in range(self.plan.workers)]
            records = self._records()
            for step, action in enumerate(self._actions()):
                # A part of the messages before each action, so that chaos meets traffic.
                share = len(self._actions()) + 1
                self._send(records[step * len(records) // share : (step + 1) * len(records) // share])
                self._wait(self._random.uniform(0.2, 0.9))
                self._cut(self.plan.cuts * (step + 1) // len(self._actions()))
                action()
            self._send(records[(share - 1) * len(records) // share :])
            try:
                until(self._is_done, "all messages are dealt with", self.plan.deadline)
            except TimeoutError:
                self.report.stuck = self._unfinished()
            for worker in self._workers:
                worker.send_signal(signal.SIGTERM)
            for worker in self._workers:
                worker.wait(30)
            self._count()
        finally:
            for worker in self._workers:
                if worker.poll() is None:
                    worker.kill()
                worker.wait(30)
            self._server.stop()
            self._network.close()
        self.report.seconds = time.monotonic() - began
        return self.report

    # -- what is done -------------------------------------------------------------------------

    def _records(self) -> list[dict[str, str]]:
        good = self.report.good
        kinds = ["good" if number % LATE else "late" for number in range(good)]
        records = [{"id": f"good-{number}", "kind": kind} for number, kind in enumerate(kinds)]
        for kind, count in (("poison", self.plan.poison), ("killer", self.plan.killers)):
            for number in range(count):
                place = self._random.randrange(len(records))
                records.insert(place, {"id": f"{kind}-{number}", "kind": kind})
        return records

    def _actions(self) -> list[Callable[[], None]]:
        if not hasattr(self, "_planned"):
            planned: list[Callable[[], None]] = [self._kill] * self.plan.kills + [self._freeze] * self.plan.zombies
            planned += [partial(self._restart, number) for number in self.plan.restarts]
            self._random.shuffle(planned)
            self._planned = planned
        return self._planned

    def _send(self, records: list[dict[str, str]]) -> None:
        with self._server.client() as client:
            for start in range(0, len(records), 500):
                pipe = client.pipeline(transaction=False)
                for record in records[start : start + 500]:
                    pipe.xadd("orders", record)
                pipe.execute()

    def _kill(self) -> None:
        victim = self._random.choice([w for w in self._workers if w.pid not in self._frozen])
        self._say(f"kill -9 {victim.pid}")
        self._killed.add(victim.pid)
        victim.kill()
        victim.wait()
        self.report.kills += 1

    def _freeze(self) -> None:
        victim = self._random.choice(self._workers)
        if victim.poll() is None and victim.pid not in self._frozen:
            self._say(f"freeze {victim.pid}")
            victim.send_signal(signal.SIGSTOP)
            self._frozen[victim.pid] = time.monotonic() + FREEZE
            self.report.zombies += 1

    def _cut(self, total: int) -> None:
        """Cut links one after the other until there were so many cuts in all."""
        end = time.monotonic() + self.plan.deadline
        while self._network.cuts < total:
            assert time.monotonic() < end, "the links are not cut"
            self._network.cut(self._random)
            self._wait(self._random.uniform(*CUT_PAUSE))
        self.report.cuts = self._network.cuts

    def _restart(self, number: int) -> None:
        self._say(f"restart Valkey with {signal.Signals(number).name}")
        self._server.stop(number)
        self._wait(self._random.uniform(0.1, 1.0))
        self._server.start()
        self.report.restarts += 1

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._look_after()
            time.sleep(0.02)

    def _look_after(self) -> None:
        """Start dead workers again, and wake frozen ones whose time has come."""
        for index, worker in enumerate(self._workers):
            if worker.pid in self._frozen and time.monotonic() > self._frozen[worker.pid]:
                del self._frozen[worker.pid]
                worker.send_signal(signal.SIGCONT)
            if worker.poll() is not None:
                self._frozen.pop(worker.pid, None)
                if worker.pid not in self._killed:
                    self.report.worker_deaths += 1
                self._workers[index] = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("REDIS_", "STREAMMACHINE_"))},
            "REDIS_URL": self._network.url,
            "STREAMMACHINE_DATA_DIR": str(self._folder / "data"),
        }
        with (self._folder / "workers.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(WORKER)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    # -- what is counted ----------------------------------------------------------------------

    def _is_done(self) -> bool:
        self._look_after()
        try:
            with self._server.client() as client:
                groups = [facts for facts in client.xinfo_groups("orders") if facts["name"] == "workers"]
                retry = "{orders}:retry:workers"
                return bool(
                    groups
                    and groups[0]["pending"] == 0
                    and groups[0]["last-delivered-id"] == client.xinfo_stream("orders")["last-generated-id"]
                    and not client.zcard(f"{retry}:due")
                    and not client.xlen(retry)
                )
        except (peer.RedisError, OSError):
            return False

    def _unfinished(self) -> int:
        with self._server.client() as client:
            retry = "{orders}:retry:workers"
            waiting = client.zcard(f"{retry}:due") + client.xlen(retry)
            (group,) = [facts for facts in client.xinfo_groups("orders") if facts["name"] == "workers"]
            return int(group["pending"] + (group["lag"] or 0) + waiting)

    def _count(self) -> None:
        with self._server.client() as client:
            results = Counter(fields["id"] for _, fields in client.xrange("results"))
            wanted = {f"good-{number}" for number in range(self.report.good)}
            self.report.missing = sorted(wanted - set(results))
            self.report.duplicates = sorted(name for name, count in results.items() if count > 1 or name not in wanted)
            letters = [fields for _, fields in client.xrange("{orders}:dlq")]
            self.report.dead_letters = Counter(fields["id"] for fields in letters)
            self.report.reasons = Counter(fields["sm-reason"] for fields in letters)
            self.report.counted = int(client.hget("sm:storage", "handled") or 0)
            self.report.left_pending = client.xpending("orders", "workers")["pending"]


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"After {seconds:g} s still not: {what}.")
        time.sleep(0.05)
