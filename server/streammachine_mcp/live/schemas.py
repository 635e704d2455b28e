"""The schemas of events' arguments, as tools' arguments have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from streammachine_mcp.live.kinds import Arguments


def input_schema(arguments: type[Arguments]) -> dict[str, Any]:
    """A JSON schema with plain types and without titles."""
    return cast(dict[str, Any], _plain(arguments.model_json_schema()))


def _plain(part: Any) -> Any:
    if isinstance(part, list):
        return [_plain(item) for item in part]
    if not isinstance(part, dict):
        return part
    found = {}
    for key, value in part.items():
        if key == "exclusiveMinimum":  # some clients refuse it; the server checks it all the same
            continue
        if key in ("title", "minLength", "maxLength") and not isinstance(value, dict):
            continue
        found[key] = _plain(value)
    return found
