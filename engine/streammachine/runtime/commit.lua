-- Acknowledge entries and make their effects visible, together and once.
--
-- KEYS[1]  the stream that the entries stand in; without entries, any key of the slot
-- KEYS[2+] the keys that the effects touch (all in one Cluster slot with KEYS[1])
-- ARGV     group, "1" to delete the entries too (companion streams), number of ids, the ids,
--          guard: its key's index or "0" for none, its life in ms (a key that must not exist yet; it is set here),
--          number of checks, per check: key's index, hash field, "1" or "0" (was there a value), the value,
--          number of effects, per effect: command, key's index, guard as above, number of arguments, the arguments.
--          HSETKEEP is HSET that keeps the field's time to live.
--
-- Invariant: only whoever turns an entry from pending to acknowledged writes its effects. A consumer that was paused beyond
-- its lease finds the entry gone and writes nothing. Whatever can be refused is looked at before the first write: a script
-- that fails half way is not undone.
-- Gives {1, results of the effects} when it was done, {2} when it was acknowledged without effects, its guard being there,
-- {0, the ids that are not pending}, {-1, field} when a checked value has changed, {-2, key, type} when an effect's key is
-- of another type. In the last three cases nothing was written.

local TYPES = {XADD = 'stream', HSET = 'hash', HSETKEEP = 'hash', HDEL = 'hash', HPEXPIRE = 'hash', ZADD = 'zset'}
local at = 0
local function take()
  at = at + 1
  return ARGV[at]
end

local group, delete = take(), take() == '1'
local ids = {}
for n = 1, tonumber(take()) do ids[n] = take() end
local guard, life = KEYS[tonumber(take())], take()

local gone = {}
for _, id in ipairs(ids) do
  if #redis.call('XPENDING', KEYS[1], group, id, id, 1) == 0 then gone[#gone + 1] = id end
end
if #gone > 0 then return {0, gone} end

local repeated = guard and redis.call('EXISTS', guard) == 1
local effects = {}
if not repeated then
  for _ = 1, tonumber(take()) do
    local key, field, had, value = KEYS[tonumber(take())], take(), take(), take()
    local now = redis.call('HGET', key, field)
    if (had == '1' and now ~= value) or (had ~= '1' and now) then return {-1, field} end
  end
  for n = 1, tonumber(take()) do
    local effect = {command = take(), key = KEYS[tonumber(take())], guard = KEYS[tonumber(take())], life = take()}
    for i = 1, tonumber(take()) do effect[i] = take() end
    local kind = redis.call('TYPE', effect.key).ok
    if kind ~= 'none' and kind ~= (TYPES[effect.command] or kind) then return {-2, effect.key, kind} end
    effects[n] = effect
  end
end

for first = 1, #ids, 1000 do
  local last = math.min(first + 999, #ids)
  redis.call('XACK', KEYS[1], group, unpack(ids, first, last))
  if delete then redis.call('XDEL', KEYS[1], unpack(ids, first, last)) end
end
if repeated then return {2} end
if guard then redis.call('SET', guard, ids[1], 'PX', life) end

local results = {}
for n, effect in ipairs(effects) do
  local done = effect.guard and redis.call('GET', effect.guard)
  if done then
    results[n] = done
  elseif effect.command == 'HSETKEEP' then
    local ttl = redis.pcall('HPTTL', effect.key, 'FIELDS', 1, effect[1])[1]
    results[n] = redis.call('HSET', effect.key, effect[1], effect[2])
    if type(ttl) == 'number' and ttl > 0 then redis.call('HPEXPIRE', effect.key, ttl, 'FIELDS', 1, effect[1]) end
  else
    results[n] = redis.call(effect.command, effect.key, unpack(effect))
    if effect.guard then redis.call('SET', effect.guard, results[n], 'PX', effect.life) end
  end
end
return {1, results}
