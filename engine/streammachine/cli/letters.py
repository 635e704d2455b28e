"""``streammachine dlq``: look at dead letters, have them tried again, throw them away."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from rich.console import Console

from streammachine.cli.json_lines import print_json
from streammachine.cli.shown import fitting, shown
from streammachine.errors import SettingsError
from streammachine.redis.connection import RedisConnection
from streammachine.redis.streams import parse_position
from streammachine.runtime.admin.dead_letters import DeadLetters, Letter, dead_letter_streams

COLUMNS = ("id", "reason", "group", "attempts", "failed (UTC)", "error", "message")
FIRST_TO_GO = ("failed (UTC)", "attempts", "group", "message")  # where the terminal is narrow
MOST_CHARS = 60  # of a value in the table


def list_letters(stream: str | None, count: int, group: str | None, as_json: bool) -> int:
    """Print the newest letters of a stream, or without one how many each stream has."""
    if stream is None:
        return _run(partial(_print_streams, as_json=as_json))

    async def show(connection: RedisConnection) -> int:
        letters = await DeadLetters.open(connection, stream)
        found, more = await letters.newest(connection, count, group=group)
        if as_json:
            for letter in found:
                print(json.dumps(_facts(letter), ensure_ascii=False))  # noqa: T201
            return 0
        total = await letters.count(connection)
        console = _console()
        if not found:
            console.print(f"{letters.stream} has no dead letters{f' of group {group}' if group else ''}.", markup=False)
            return 0
        folding = ("error", "message")
        table, _ = fitting(console, COLUMNS, map(_cells, found), folding=folding, first_to_go=FIRST_TO_GO)
        console.print(table)
        console.print(f"{len(found)} of {total}{', the newest' if more else ''}")
        return 0

    return _run(show)


def show_letter(stream: str, identifier: str, as_json: bool = False) -> int:
    """Print one letter with all its facts and the traceback."""

    async def show(connection: RedisConnection) -> int:
        letter = await (await DeadLetters.open(connection, stream)).letter(connection, parse_position(identifier))
        if as_json:
            print_json({**_facts(letter), "traceback": letter.fact("traceback")})
            return 0
        console = _console()
        for name, value in {**_facts(letter), "data": None}.items():
            if value is not None:
                console.print(shown(f"{name}: {value}"), markup=False)
        console.print(shown(json.dumps(letter.data, ensure_ascii=False, indent=2), lines=True), markup=False)
        if trace := letter.fact("traceback"):
            console.print(shown(f"\n{trace}", lines=True), markup=False, end="")
        return 0

    return _run(show)


def redrive_letters(
    stream: str, identifiers: list[str], everything: bool, group: str | None, as_json: bool = False
) -> int:
    """Give letters back to the groups that failed on them; 1 when some could not be."""
    if bool(identifiers) == everything:
        raise SettingsError("Name the letters to redrive (see streammachine dlq list), or give --all.")

    async def redrive(connection: RedisConnection) -> int:
        letters = await DeadLetters.open(connection, stream)
        chosen = [parse_position(identifier) for identifier in identifiers]
        if everything:
            count = await letters.count(connection)
            chosen = [letter.id for letter in (await letters.newest(connection, count, group=group))[0]][::-1]
        done = await letters.redrive(connection, chosen)
        status = 1 if done.missing or done.refused else 0
        if as_json:
            print_json({"redriven": done.ids, "missing": done.missing, "refused": done.refused})
            return status
        console = _console()
        console.print(f"{len(done.ids)} of {len(chosen)} given back to their groups.")
        for identifier in done.missing:
            console.print(f"{identifier}: there is no such dead letter.", markup=False)
        for identifier, reason in done.refused.items():
            console.print(shown(f"{identifier}: refused: {reason}"), markup=False)
        return status

    return _run(redrive)


def purge_letters(stream: str, yes: bool) -> int:
    """Delete all letters of a stream, after asking; those that come while it asks stay."""

    async def purge(connection: RedisConnection) -> int:
        letters = await DeadLetters.open(connection, stream)
        newest, _ = await letters.newest(connection, 1)
        if not newest:
            _console().print(f"{letters.stream} has no dead letters.", markup=False)
            return 0
        count = await letters.count(connection)
        if not yes and not await anyio.to_thread.run_sync(_agreed, f"Delete {count} dead letters of {letters.stream}?"):
            _console().print("Nothing was deleted.")
            return 1
        _console().print(f"{await letters.purge(connection, newest[0].id)} dead letters deleted.")
        return 0

    return _run(purge)


async def _print_streams(connection: RedisConnection, as_json: bool) -> int:
    found = await dead_letter_streams(connection)
    if as_json:
        for name, count in found:
            print(json.dumps({"stream": name, "dead_letters": count}, ensure_ascii=False))  # noqa: T201
        return 0
    console = _console()
    for name, count in found:
        console.print(f"{count:>8}  {shown(name)}", markup=False)
    if not found:
        console.print("There are no dead letters.")
    return 0


def _run(work: Callable[[RedisConnection], Awaitable[int]]) -> int:
    async def connected() -> int:
        async with RedisConnection() as connection:
            return await work(connection)

    return anyio.run(connected)


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise SettingsError("This deletes for good, and there is no terminal to ask on. Give --yes.")
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _facts(letter: Letter) -> dict[str, Any]:
    names = ("reason", "group", "attempts", "error-type", "error", "origin-stream", "origin-id", "consumer")
    facts = {name.replace("-", "_"): letter.fact(name) for name in names}
    return {"id": letter.id, **facts, "failed_at": _moment(letter.fact("failed-at")), "data": letter.data}


def _cells(letter: Letter) -> list[str]:
    error = f"{letter.fact('error-type')}: {letter.fact('error')}"
    message = " ".join(f"{name}={value}" for name, value in letter.data.items())
    when = _moment(letter.fact("failed-at"))
    cells = [letter.id, letter.fact("reason"), letter.fact("group"), letter.fact("attempts"), when, error, message]
    return [cell if len(cell) <= MOST_CHARS else f"{cell[:MOST_CHARS]}…" for cell in cells]


def _moment(text: str) -> str:
    return datetime.fromtimestamp(int(text) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") if text.isdigit() else text


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=True)
    # A pipe has no width: what is cut off or wrapped cannot be found again.
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=10_000)
