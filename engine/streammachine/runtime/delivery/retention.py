"""retain="acked": trim what every group of a stream has acknowledged, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streammachine.redis.scripts import AHEAD, LuaScript

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

# Finds the oldest entry that some group still needs (its oldest pending one, else its last
# delivered one, which is as good and needs no counting), and trims what is older. One step, so that no group that is
# created meanwhile loses anything it could still see. Gives how many entries were trimmed.
_TRIM = LuaScript(
    AHEAD
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local keep
for _, facts in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #facts, 2 do group[facts[i]] = facts[i + 1] end
  local first = group['last-delivered-id']
  if group.pending > 0 then first = redis.call('XPENDING', KEYS[1], group.name)[2] end
  if not keep or ahead(keep, first) then keep = first end
end
if not keep then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', keep)
""",
    keys=("stream",),
)


async def trim_acknowledged(connection: RedisConnection, stream: str) -> int:
    """Trim the stream up to the oldest entry that some group still needs.

    Returns:
        How many entries were trimmed.
    """
    return int(await _TRIM(connection, stream=stream, repeatable=True))
