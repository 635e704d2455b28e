-- Make the effects of entries visible and acknowledge them, together and once, or do nothing of it.
--
-- KEYS[1]  the stream that the entries stand in; without entries, any key of the slot
-- KEYS[2+] the keys that the effects touch (all in one Cluster slot with KEYS[1])
-- ARGV     group, "1" to delete the entries too (companion streams), number of ids, the ids,
--          guard: its key's index or "0" for none, its life in ms (a key that must not exist yet; it is set here),
--          number of checks, per check: key's index, hash field, "1" or "0" (was there a value), the value,
--          number of effects, per effect: command, key's index, guard as above, number of arguments, the arguments.
--          Two commands are ours: HSETKEEP is HSET that keeps the field's time to live; INCR adds (field, what to add, "1" if
--          that is whole: redis/storage.py).
--
-- Invariant: only whoever turns an entry from pending to acknowledged writes its effects. A consumer that was paused beyond
-- its lease finds the entry gone and writes nothing. An entry is acknowledged only behind its effects: a script is not undone
-- when one of its commands is refused, so rights and types are looked at before the first write, and what is refused all the
-- same (a full stream, a number's end) takes back what was written before it. The memory limit is looked at by the server
-- before the script begins (the flags in its first line, delivery.py), as it looks before a SET.
-- Gives {1, results of the effects} when it was done, {2} when it was acknowledged without effects, its guard being there,
-- {0, the ids that are not pending}, {-1, field} when a checked value has changed, {-2, key, type} when an effect's key is
-- of another type, {-3, command, key, the server's words} when it was refused. In the last four cases nothing was written.

local TYPES = {
  XADD = 'stream', HSET = 'hash', HSETKEEP = 'hash', HDEL = 'hash', HPEXPIRE = 'hash', INCR = 'hash', ZADD = 'zset'
}
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
local effects, kinds = {}, {}
if not repeated then
  for _ = 1, tonumber(take()) do
    local key, field, had, value = KEYS[tonumber(take())], take(), take(), take()
    local now = redis.call('HGET', key, field)
    if (had == '1' and now ~= value) or (had ~= '1' and now) then return {-1, field} end
  end
  for n = 1, tonumber(take()) do
    local effect = {command = take(), key = KEYS[tonumber(take())], guard = KEYS[tonumber(take())], life = take()}
    for i = 1, tonumber(take()) do effect[i] = take() end
    local kind = kinds[effect.key] or redis.call('TYPE', effect.key).ok
    kinds[effect.key] = kind
    if kind ~= 'none' and kind ~= (TYPES[effect.command] or kind) then return {-2, effect.key, kind} end
    effects[n] = effect
  end
end

local allowed = {}
local function refused(command, key, ...)
  local name = command .. ' ' .. key
  if allowed[name] == nil then
    local known, may = pcall(redis.acl_check_cmd, command, key)
    allowed[name] = known and may
  end
  if allowed[name] then return end
  local answer = redis.pcall(command, key, ...) -- for the server's own words
  return {-3, command, key, type(answer) == 'table' and answer.err or 'it is not allowed'}
end

if redis.acl_check_cmd then
  local no = #ids > 0 and (refused('XACK', KEYS[1], group, ids[1]) or (delete and refused('XDEL', KEYS[1], ids[1])))
  if not no and guard and not repeated then no = refused('SET', guard, '', 'PX', life) end
  for _, effect in ipairs(effects) do
    if no then break end
    local command = effect.command
    if command == 'HSETKEEP' then command = 'HSET' end
    if command == 'INCR' then
      no = refused(effect[3] == '1' and 'HINCRBY' or 'HINCRBYFLOAT', effect.key, effect[1], effect[2])
    else
      no = refused(command, effect.key, unpack(effect))
    end
    if not no and effect.guard then no = refused('SET', effect.guard, '', 'PX', effect.life) end
  end
  if no then return no end
end

local undo = {} -- commands that take back what was written, the last one first
local function write(command, key, ...)
  local done = redis.pcall(command, key, ...)
  if type(done) == 'table' and done.err then error({command, key, done.err}) end
  return done
end

local function remember(key, field)
  local was = redis.pcall('HGET', key, field)
  if was == false then
    undo[#undo + 1] = {'HDEL', key, field}
  elseif type(was) == 'string' then
    local ttl = redis.pcall('HPTTL', key, 'FIELDS', 1, field)[1]
    if type(ttl) == 'number' and ttl > 0 then undo[#undo + 1] = {'HPEXPIRE', key, ttl, 'FIELDS', 1, field} end
    undo[#undo + 1] = {'HSET', key, field, was}
  end
end

local function add(key, field, by, whole)
  local now = redis.call('HGET', key, field)
  if whole == '1' and not (now and (string.find(now, '^%-?%d+%.') or string.find(now, '^%-?[%d.]+[eE]'))) then
    return write('HINCRBY', key, field, by)
  end
  return write('HINCRBYFLOAT', key, field, by)
end

local function set(key, value, ms)
  write('SET', key, value, 'PX', ms)
  undo[#undo + 1] = {'DEL', key}
end

local function apply(effect)
  if effect.command == 'HSETKEEP' then
    local ttl = redis.pcall('HPTTL', effect.key, 'FIELDS', 1, effect[1])[1]
    local made = write('HSET', effect.key, effect[1], effect[2])
    if type(ttl) == 'number' and ttl > 0 then write('HPEXPIRE', effect.key, ttl, 'FIELDS', 1, effect[1]) end
    return made
  end
  if effect.command == 'INCR' then return add(effect.key, unpack(effect)) end
  local done = write(effect.command, effect.key, unpack(effect))
  if effect.command == 'XADD' then
    undo[#undo + 1] = kinds[effect.key] == 'none' and {'DEL', effect.key} or {'XDEL', effect.key, done}
    kinds[effect.key] = 'stream'
    if effect.guard then set(effect.guard, done, effect.life) end
  end
  return done
end

local results = {}
local fine, problem = pcall(function()
  for n, effect in ipairs(effects) do
    local done = effect.guard and redis.call('GET', effect.guard)
    if not done then
      if n < #effects and TYPES[effect.command] == 'hash' then
        remember(effect.key, effect.command == 'HPEXPIRE' and effect[4] or effect[1])
      end
      done = apply(effect)
    end
    results[n] = done
  end
  if guard and not repeated then set(guard, ids[1], life) end
  for first = 1, #ids, 1000 do
    local last = math.min(first + 999, #ids)
    write('XACK', KEYS[1], group, unpack(ids, first, last))
    if delete then write('XDEL', KEYS[1], unpack(ids, first, last)) end
  end
end)
if not fine then
  local words = type(problem) == 'table' and problem or {'the commit', KEYS[1], tostring(problem)}
  for n = #undo, 1, -1 do
    local answer = redis.pcall(unpack(undo[n]))
    if type(answer) == 'table' and answer.err then
      words[3] = words[3] .. '; ' .. undo[n][1] .. ' of what was written before it failed too: ' .. answer.err
    end
  end
  return {-3, unpack(words)}
end
if repeated then return {2} end
return {1, results}
