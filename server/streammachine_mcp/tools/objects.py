"""Object tools: the pickled objects of RedisObjectStorage, shown as data and never run."""

from typing import Annotated, NotRequired, Required, cast

from anyio import to_thread
from fastmcp import Context
from fastmcp.dependencies import CurrentContext
from mcp_types import InputRequiredResult
from pydantic import Field
from typing_extensions import TypedDict

from streammachine.errors import StreamMachineError
from streammachine.redis import planned
from streammachine.redis.objects import PREFIX
from streammachine.redis.streams import nearest
from streammachine_mcp.results import MAX_VALUE_BYTES, fit
from streammachine_mcp.safety import Confirm, ConfirmToken, Plan, Unconfirmed
from streammachine_mcp.tools.bounded import exact_integers
from streammachine_mcp.tools.family import Family, tool
from streammachine_mcp.tools.json_view import MAX_OPENED_BYTES, AnyJson, Exact, showable, too_large


class ObjectNotFoundError(StreamMachineError, LookupError):
    """No object has this key."""


class StoredObject(TypedDict):
    key: str
    value: AnyJson
    bytes: int
    truncated: NotRequired[bool]
    note: NotRequired[str]
    exact: NotRequired[Exact]


class ObjectKeys(TypedDict):
    keys: list[str]
    count: int
    truncated: bool
    hint: NotRequired[str]


class ObjectsDeleted(Unconfirmed, total=False):
    deleted: Required[int]
    keys: list[str]


class ObjectTools(Family):
    toolset = "object"

    @tool("obj_get", "Show an object", reads=True)
    async def get(self, key: Annotated[str, Field(description="Object key", min_length=1)]) -> StoredObject:
        """Show a stored Python object as JSON, if it is plain data that this installation signed."""
        objects = await self.state.objects()
        size = await objects.stored_bytes(key)
        if not size:
            raise ObjectNotFoundError(f"There is no object {key!r}.{nearest(key, await objects.list_keys())}")
        if size > MAX_OPENED_BYTES:
            return {"key": key, "value": None, "bytes": size, "truncated": True, "note": too_large(size)}
        value = await objects.retrieve_plain(key)
        shown, note, cut = await to_thread.run_sync(showable, value, MAX_VALUE_BYTES)
        result: StoredObject = {"key": key, "value": shown, "bytes": size}
        if note:
            result["note"] = note
            result["truncated"] = cut
        if exact := exact_integers(shown):
            result["exact"] = exact
        return result

    @tool("obj_list", "List objects", reads=True)
    async def find(
        self,
        pattern: Annotated[str, Field(description="Glob, e.g. 'model:*'")] = "*",
        after: Annotated[str | None, Field(description="To go on: the last you got")] = None,
    ) -> ObjectKeys:
        """List the keys of stored objects, sorted."""
        names = await (await self.state.objects()).list_keys(pattern)
        kept, cut = fit(name for name in names if after is None or name > after)
        page: ObjectKeys = {"keys": kept, "count": len(names), "truncated": cut}
        if cut:
            page["hint"] = "There are more: call again with after=<the last key>, or narrow the pattern."
        return page

    @tool("obj_delete", "Delete objects", destructive=True, idempotent=True)
    async def delete(
        self,
        pattern: Annotated[str, Field(description="Glob of object keys", min_length=1)],
        confirm: Confirm = False,
        confirm_token: ConfirmToken = None,
        ctx: Context = CurrentContext(),
    ) -> ObjectsDeleted | InputRequiredResult:
        """Delete the stored objects that match; no other Redis key is touched. Asks the user, or gives a plan and a
        token."""
        objects = await self.state.objects()
        connection = await self.state.redis()
        names = await objects.list_keys(pattern)
        values = await planned.key_digests(connection, [PREFIX + name for name in names])
        plan = Plan(
            operation=f"obj_delete {pattern}",
            count=len(names),
            fingerprint=planned.fingerprint(values),
            text=f"Delete {len(names)} stored objects that match {pattern!r}",
        )
        decision = await self.confirmer.decide(ctx, plan, confirm=confirm, token=confirm_token)
        if isinstance(decision, InputRequiredResult):
            return decision
        if decision is not True:
            return cast(ObjectsDeleted, {"deleted": 0, "keys": fit(names, 4000)[0], **decision})
        return {"deleted": await (objects.delete(names) if confirm else planned.delete_keys(connection, values))}
