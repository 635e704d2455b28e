"""Dead letter tools: the messages that agents gave up, giving them back, and throwing them away."""

import re
from typing import TYPE_CHECKING, Annotated, NotRequired, Required, cast

from fastmcp import Context
from fastmcp.dependencies import CurrentContext
from mcp_types import InputRequiredResult
from pydantic import Field
from typing_extensions import TypedDict

from streammachine.redis import streams
from streammachine_mcp.argument_types import Position, StreamName
from streammachine_mcp.results import cut_text, fit, fit_fields
from streammachine_mcp.safety import Confirm, ConfirmToken, Plan, Unconfirmed
from streammachine_mcp.tools.family import Family, tool

if TYPE_CHECKING:  # the runtime is loaded by the first call that needs it: it would delay the first tools/list
    from streammachine.runtime.admin.dead_letters import Letter

_WHOLE_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_WHOLE_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}", re.ASCII)
MOST_LETTERS = 1000  # redriven in one call
VALUE_CHARS = 1000  # of a dead letter's field
LETTER_BYTES = 40_000  # of all fields of one letter
TRACEBACK_CHARS = 10_000
PART_BYTES = 25_000  # of each part of what dead_letter_redrive tells


class DeadLetterRow(TypedDict):
    id: str
    reason: str
    group: str
    attempts: str
    error: str
    failed_at_ms: NotRequired[int]
    origin_id: str
    data: dict[str, str]
    fields_left_out: NotRequired[int]
    traceback: NotRequired[str]


class DeadLetterPage(TypedDict):
    stream: str
    total: int
    count: int
    letters: list[DeadLetterRow]
    truncated: bool
    hint: NotRequired[str]


class LettersRedriven(TypedDict):
    redriven: int
    ids: dict[str, str]
    missing: list[str]
    refused: dict[str, str]
    remaining: int
    truncated: NotRequired[bool]
    hint: NotRequired[str]


class LettersPurged(Unconfirmed, total=False):
    purged: Required[int]


class DeadLetterTools(Family):
    toolset = "agent"

    @tool("dead_letter_list", "List dead letters", reads=True)
    async def letters(
        self,
        stream: StreamName,
        count: Annotated[int, Field(description="Most letters", ge=1, le=200)] = 10,
        before: Annotated[
            Position | None, Field(description="Only letters before this id or time; to go on, the last you got")
        ] = None,
        group: Annotated[str | None, Field(description="Only those of this consumer group")] = None,
        traceback: Annotated[bool, Field(description="With the handler's traceback")] = False,
    ) -> DeadLetterPage:
        """Show the messages of a stream that its agents gave up, the newest first: why, in which group, and their
        fields (data from outside). To try them again: dead_letter_redrive."""
        from streammachine.runtime.admin.dead_letters import DeadLetters

        connection = await self.state.redis()
        dead_letters = await DeadLetters.open(connection, stream)
        position = _before(before)
        total = await dead_letters.count(connection)  # first, so that no letter is counted that is not shown
        found, more = await dead_letters.newest(connection, count, before=position, group=group)
        kept, cut = fit(_shown(letter, traceback) for letter in found)
        page: DeadLetterPage = {
            "stream": dead_letters.stream,
            "total": max(total, len(kept)),
            "count": len(kept),
            "letters": kept,
            "truncated": more or cut,
        }
        if more or cut:
            page["hint"] = "There are older ones: call again with before=<the last id>."
        return page

    @tool("dead_letter_redrive", "Redrive dead letters")
    async def redrive(
        self,
        stream: StreamName,
        ids: Annotated[list[str] | None, Field(description="Letters to redrive", max_length=MOST_LETTERS)] = None,
        all: Annotated[bool, Field(description=f"Instead of ids: the newest {MOST_LETTERS}")] = False,
        group: Annotated[str | None, Field(description="With all: only those of this group")] = None,
    ) -> LettersRedriven:
        """Give dead letters back to the group that failed on them, and to no other, as a first attempt. Mend the cause
        first, else they come back."""
        from streammachine.runtime.admin.dead_letters import DeadLetters

        connection = await self.state.redis()
        if bool(ids) == all:
            raise ValueError("Give ids (see dead_letter_list), or all=true.")
        _refuse_own(stream)
        dead_letters = await DeadLetters.open(connection, stream)
        chosen = [_letter_id(identifier) for identifier in ids or ()]
        if all:
            # The oldest first, as they came.
            chosen = [letter.id for letter in (await dead_letters.newest(connection, MOST_LETTERS, group=group))[0]][
                ::-1
            ]
        done = await dead_letters.redrive(connection, chosen)
        moved, cut = fit(done.ids.items(), 2 * PART_BYTES)
        missing, cut_missing = fit(done.missing, PART_BYTES)
        refused, cut_refused = fit(done.refused.items(), PART_BYTES)
        result: LettersRedriven = {
            "redriven": len(done.ids),
            "ids": dict(moved),
            "missing": missing,
            "refused": dict(refused),
            "remaining": await dead_letters.count(connection),
        }
        if cut or cut_missing or cut_refused:
            result["truncated"] = True
            result["hint"] = "Not every id is named here. dead_letter_list shows the letters that are left."
        return result

    @tool("dead_letter_purge", "Purge dead letters", destructive=True, idempotent=True)
    async def purge(
        self,
        stream: StreamName,
        confirm: Confirm = False,
        confirm_token: ConfirmToken = None,
        ctx: Context = CurrentContext(),
    ) -> LettersPurged | InputRequiredResult:
        """Delete all dead letters of a stream for good. Asks the user, or gives a plan and a token."""
        from streammachine.runtime.admin.dead_letters import DeadLetters

        _refuse_own(stream)
        connection = await self.state.redis()
        dead_letters = await DeadLetters.open(connection, stream)
        newest, _ = await dead_letters.newest(connection, 1)
        count = await dead_letters.count(connection)
        if not newest:
            return {"purged": 0}
        plan = Plan(
            operation=f"dead_letter_purge {dead_letters.key}",
            count=count,
            fingerprint=repr(await dead_letters.version(connection)),
            text=f"Delete all {count} dead letters of {dead_letters.stream!r}",
        )
        decision = await self.confirmer.decide(ctx, plan, confirm=confirm, token=confirm_token)
        if isinstance(decision, InputRequiredResult):
            return decision
        if decision is not True:
            return cast(LettersPurged, {"purged": 0, **decision})
        return {"purged": await dead_letters.purge(connection, newest[0].id)}


def _before(text: str | None) -> str | None:
    """The id that ``DeadLetters.newest`` is to stay before; None is the newest."""
    if text is None:
        return None
    position = streams.parse_position(text).removeprefix("(")
    return {"+": None, "-": "0-1", "0": "0-1", "0-0": "0-1"}.get(position, position)  # nothing is before 0-1


def _refuse_own(stream: str) -> None:
    """A stream's dead letters are what these tools are for, by its own name or theirs; other keys are not."""
    if stream.startswith(streams.OWN_PREFIXES) or not stream.endswith(":dlq"):
        streams.refuse_own(stream)


def _letter_id(text: str) -> str:
    if not _WHOLE_ID.fullmatch(text):
        raise ValueError(
            f"{text!r} is no id of a dead letter. Give those that dead_letter_list shows ('1717171717000-0')."
        )
    return text


def _shown(letter: "Letter", traceback: bool) -> DeadLetterRow:
    kind, error = letter.fact("error-type"), letter.fact("error")
    data, left_out = fit_fields(letter.data, VALUE_CHARS, LETTER_BYTES)
    shown: DeadLetterRow = {
        "id": letter.id,
        "reason": letter.fact("reason"),
        "group": letter.fact("group"),
        "attempts": letter.fact("attempts"),
        "error": cut_text(f"{kind}: {error}" if kind else error, VALUE_CHARS),
        "origin_id": letter.fact("origin-id"),
        "data": data,
    }
    if _WHOLE_NUMBER.fullmatch(when := letter.fact("failed-at")):
        shown["failed_at_ms"] = int(when)
    if left_out:
        shown["fields_left_out"] = left_out
    if traceback:
        shown["traceback"] = cut_text(letter.fact("traceback"), TRACEBACK_CHARS)
    return shown
