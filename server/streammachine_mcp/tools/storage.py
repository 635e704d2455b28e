"""Storage tools: shared values by key, the same that App.storage sees."""

from collections.abc import Callable
from typing import Annotated, Any, NotRequired, Required, cast

from anyio import to_thread
from fastmcp import Context
from fastmcp.dependencies import CurrentContext
from mcp_types import InputRequiredResult
from pydantic import Field
from typing_extensions import TypedDict

from streammachine.errors import SignatureError, UnsafePickleError, WrongTypeError
from streammachine.redis import planned
from streammachine.redis.signing import MAGIC
from streammachine_mcp.arguments import ArgumentError, check_values, parse_json
from streammachine_mcp.results import MAX_SEND_BYTES, MAX_VALUE_BYTES, fit, json_size
from streammachine_mcp.safety import Confirm, ConfirmToken, Plan, Unconfirmed
from streammachine_mcp.tools.bounded import exact_integers
from streammachine_mcp.tools.family import Family, tool
from streammachine_mcp.tools.json_view import MAX_OPENED_BYTES, AnyJson, Exact, showable, too_large

Key = Annotated[str, Field(description="Storage key", min_length=1, max_length=1024)]
# Any JSON value is taken. The schema says text, for which clients need no guess (one without a type is refused or made
# text by many); a client that keeps to it writes the rest as JSON text.
_ANY = {"type": "string"}
_SMALL = 4096  # bytes of stored JSON: decoded in less time than a thread takes to start on it


class StoredValue(TypedDict):
    key: str
    value: AnyJson
    exists: bool
    truncated: NotRequired[bool]
    note: NotRequired[str]
    exact: NotRequired[Exact]


class ValueWritten(TypedDict):
    key: str
    written: bool
    note: NotRequired[str]


class ValueDeleted(TypedDict):
    key: str
    existed: bool


class StorageKeys(TypedDict):
    keys: list[str]
    count: int
    truncated: bool
    hint: NotRequired[str]


class StorageCleared(Unconfirmed, total=False):
    cleared: Required[bool]


class StorageTools(Family):
    toolset = "storage"

    @tool("storage_read", "Read a value", reads=True)
    async def read(
        self,
        key: Key,
        default: Annotated[Any, Field(description="Given when the key has no value", json_schema_extra=_ANY)] = None,
    ) -> StoredValue:
        """Read one value of the shared storage, by its key."""
        storage = await self.state.storage()
        size = await storage.stored_bytes(key)
        if size > MAX_OPENED_BYTES:
            return {"key": key, "value": None, "exists": True, "truncated": True, "note": too_large(size)}
        stored = await storage.read_raw(key)
        if stored is None:
            return {"key": key, "value": default, "exists": False}
        run = _in_place if len(stored) <= _SMALL and not stored.startswith(MAGIC) else to_thread.run_sync
        try:
            value = await run(storage.decode_plain, key, stored)
        except (SignatureError, UnsafePickleError, WrongTypeError) as error:
            return {"key": key, "value": None, "exists": True, "note": f"Not shown: {error}"}
        shown, note, cut = await run(showable, value, MAX_VALUE_BYTES)
        result: StoredValue = {"key": key, "value": shown, "exists": True}
        if note:
            result["note"] = note
            result["truncated"] = cut
        if exact := exact_integers(shown):
            result["exact"] = exact
        return result

    @tool("storage_write", "Write a value", idempotent=True)
    async def write(
        self,
        key: Key,
        value: Annotated[
            Any, Field(description="Text; a JSON value, or JSON text of an array or object", json_schema_extra=_ANY)
        ],
        ttl_s: Annotated[float | None, Field(description="Seconds until it vanishes", ge=0.001, le=1e9)] = None,
        as_json: Annotated[
            bool | None, Field(description="true: value is JSON text (5, true, null); false: text as it stands")
        ] = None,
    ) -> ValueWritten:
        """Write one value in place of what was there."""
        value, note = _value(value, as_json)
        size = json_size(value)
        if size > MAX_SEND_BYTES:
            raise ValueError(
                f"The value has {size / 1e6:.1f} MB; at most {MAX_SEND_BYTES / 1e6:g} MB go through a tool. "
                "Split it, or write it from Python with Storage or RedisObjectStorage."
            )
        await (await self.state.storage()).write(key, value, ttl=ttl_s)
        written: ValueWritten = {"key": key, "written": True}
        if note:
            written["note"] = note
        return written

    @tool("storage_delete", "Delete a value", destructive=True, idempotent=True)
    async def delete(self, key: Key) -> ValueDeleted:
        """Delete one value at once, without asking."""
        return {"key": key, "existed": await (await self.state.storage()).delete(key)}

    @tool("storage_keys", "List keys", reads=True)
    async def keys(
        self,
        after: Annotated[str | None, Field(description="To go on: the last you got")] = None,
    ) -> StorageKeys:
        """List all keys of the shared storage, sorted."""
        names = await (await self.state.storage()).keys()
        kept, cut = fit(name for name in names if after is None or name > after)
        page: StorageKeys = {"keys": kept, "count": len(names), "truncated": cut}
        if cut:
            page["hint"] = "There are more: call again with after=<the last key>."
        return page

    @tool("storage_clear", "Clear the storage", destructive=True, idempotent=True)
    async def clear(
        self,
        confirm: Confirm = False,
        confirm_token: ConfirmToken = None,
        ctx: Context = CurrentContext(),
    ) -> StorageCleared | InputRequiredResult:
        """Delete every value of the shared storage. Asks the user, or gives a plan and a token."""
        storage, connection = await self.state.storage(), await self.state.redis()
        values = await planned.field_digests(connection, storage.key)
        plan = Plan(
            operation="storage_clear",
            count=len(values),
            fingerprint=planned.fingerprint(values),
            text=f"Delete all {len(values)} values of the shared storage",
        )
        decision = await self.confirmer.decide(ctx, plan, confirm=confirm, token=confirm_token)
        if isinstance(decision, InputRequiredResult):
            return decision
        if decision is not True:
            return cast(StorageCleared, {"cleared": False, **decision})
        if confirm:
            return {"cleared": True, "count": await storage.clear()}
        return {"cleared": True, "count": await planned.delete_fields(connection, storage.key, values)}


async def _in_place(function: Callable[..., Any], *args: Any) -> Any:
    """Call it here: what ``to_thread.run_sync`` does in a thread."""
    return function(*args)


def _value(given: Any, as_json: bool | None) -> tuple[Any, str]:
    """The value to write, and a note where it is not what was given: text that is JSON of an array or object counts as
    that, because clients send those as text; any other text only when ``as_json`` says so.

    Raises:
        ArgumentError: ``as_json`` is true and it is no JSON text.
    """
    if not isinstance(given, str) or as_json is False:
        return given, ""
    if as_json:
        value = parse_json(given, "value", "JSON text, because as_json is true")
        check_values(value, "value")
        return value, ""
    if not given.lstrip().startswith(("[", "{")):
        return given, ""
    try:
        value = parse_json(given, "value", "JSON")
        check_values(value, "value")
    except ArgumentError:
        return given, ""
    kind = "an array" if isinstance(value, list) else "an object"
    return value, f"The text is JSON and was written as {kind}; as_json=false writes the text itself."
