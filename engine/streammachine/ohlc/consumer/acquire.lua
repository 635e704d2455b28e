-- Become the one active consumer of a group on a tick stream, or learn who is.
--
-- KEYS[1] the state, a hash; KEYS[2] the lease; KEYS[3] the tick stream; KEYS[4+] the streams that commits write
-- ARGV    owner, lease in ms, group, intervals (JSON), start ("0", "$" or an id)
--
-- Invariant: the lease's value "<fence>:<owner>" never repeats, so that commit.lua tells a former holder from the present.
-- Gives {1, lease's value, id, entries read or -1, state (HGETALL)} when it is ours now,
-- {0, ms until the other's lease ends}, {-1, intervals} when the state is one of other intervals,
-- {-2, key, type} when a key is of another type. In the last two cases nothing was written.
-- ahead(a, b) is redis/ids.lua's, which is put before this.

local kinds = {'hash', 'string'}
for n, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= (kinds[n] or 'stream') then return {-2, key, kind} end
end

local function pairs_of(facts)
  local found = {}
  for i = 1, #facts, 2 do found[facts[i]] = facts[i + 1] end
  return found
end

local function group_facts()
  if redis.call('EXISTS', KEYS[3]) == 0 then return nil end
  for _, facts in ipairs(redis.call('XINFO', 'GROUPS', KEYS[3])) do
    local group = pairs_of(facts)
    if group.name == ARGV[3] then return group end
  end
end

local state = redis.call('HMGET', KEYS[1], 'intervals', 'id', 'read')
if state[1] and state[1] ~= ARGV[4] then return {-1, state[1]} end

local group = group_facts()
if not group then
  redis.call('XGROUP', 'CREATE', KEYS[3], ARGV[3], state[2] or ARGV[5], 'MKSTREAM')
  group = group_facts()
end

local lease = redis.call('GET', KEYS[2])
if lease and string.match(lease, '^%d+:(.*)$') ~= ARGV[1] then return {0, redis.call('PTTL', KEYS[2])} end

local stream = pairs_of(redis.call('XINFO', 'STREAM', KEYS[3]))
local id, read = state[2] or group['last-delivered-id'], tonumber(state[3] or group['entries-read'] or -1)
if ahead(id, stream['last-generated-id']) then id, read = '0-0', -1 end -- the stream was deleted and begins anew
if read < 0 then
  if id == '0-0' then read = stream['entries-added'] - stream.length end
  if id == stream['last-generated-id'] then read = stream['entries-added'] end
end
local value = redis.call('HINCRBY', KEYS[1], 'fence', 1) .. ':' .. ARGV[1]
redis.call('HSET', KEYS[1], 'intervals', ARGV[4], 'id', id, 'read', read)
redis.call('SET', KEYS[2], value, 'PX', ARGV[2])
return {1, value, id, read, redis.call('HGETALL', KEYS[1])}
