-- Note how far the group has acknowledged everything, so that it can begin there if it is lost (reopen.lua).
--
-- KEYS[1] the stream; KEYS[2] the mark; ARGV[1] the group
--
-- The mark is "id entries-added": the second number tells a stream that was deleted and filled anew.
-- Invariant: every entry up to the id is acknowledged. Gives 1 when the mark moved.

local function pairs_of(facts)
  local found = {}
  for i = 1, #facts, 2 do found[facts[i]] = facts[i + 1] end
  return found
end

for _, facts in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = pairs_of(facts)
  if group.name == ARGV[1] then
    local id = group['last-delivered-id']
    if group.pending > 0 then
      local ms = tonumber(string.match(redis.call('XPENDING', KEYS[1], ARGV[1])[2], '^%d+'))
      id = ms > 0 and string.format('%.0f-18446744073709551615', ms - 1) or '0-0'
    end
    local mark = id .. ' ' .. pairs_of(redis.call('XINFO', 'STREAM', KEYS[1]))['entries-added']
    if redis.call('GET', KEYS[2]) == mark then return 0 end
    redis.call('SET', KEYS[2], mark)
    return 1
  end
end
return redis.error_reply('NOGROUP No such consumer group')
