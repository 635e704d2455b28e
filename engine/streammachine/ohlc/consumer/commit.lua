-- Write finished candles, refused ticks, the symbols' state and the position in one step, and keep the lease.
--
-- KEYS[1] the state, a hash; KEYS[2] the lease; KEYS[3] the tick stream; KEYS[4] its dead letters; KEYS[5+] the candle streams
-- ARGV    the lease's value, lease in ms (0 gives it up), group, the number of commits before this one, MAXLEN of the candle
--         streams (0: all) and of the dead letters, the id reached, entries read with this commit,
--         how many packs of state fields and these; for each candle stream its interval in ms, how many packs of candles
--         and these; how many dead letters and these: number of arguments, the arguments.
--         A pack is strings of MessagePack, one behind the other: of state fields names and values in turn, of candles
--         eight values each (symbol to trade_count as below, without the interval): what a candle costs is its strings,
--         so names stand in the script, and arguments are few.
--
-- Invariant: only the holder of the lease commits, each commit once and in its order; the group's position, which is the
-- acknowledgement, moves behind the outputs. What can be refused is looked at first, since a script that fails is not undone;
-- where an output is refused all the same, those before it are taken back.
-- Gives {1} when it was done, {0} when the lease is another's or gone, {-1} when this commit was done before,
-- {-2, key, type} when a key is of another type, {-3} when the stream was deleted and begins anew. Nothing was written then.
-- ahead(a, b) is redis/ids.lua's and refusal(command, ...) redis/may.lua's, which are put before this.

local at = 0
local function take()
  at = at + 1
  return ARGV[at]
end

local value, lease, group, number = take(), tonumber(take()), take(), take()
local maxlen, dead_maxlen, id, count = take(), take(), take(), tonumber(take())

if redis.call('GET', KEYS[2]) ~= value then return {0} end
if (redis.call('HGET', KEYS[1], 'commits') or '0') ~= number then return {-1} end
for n = 3, #KEYS do
  local kind = redis.call('TYPE', KEYS[n]).ok
  if kind ~= 'none' and kind ~= 'stream' then return {-2, KEYS[n], kind} end
end

local last, added = '0-0', 0
if redis.call('EXISTS', KEYS[3]) == 1 then
  local facts = redis.call('XINFO', 'STREAM', KEYS[3])
  for i = 1, #facts, 2 do
    if facts[i] == 'last-generated-id' then last = facts[i + 1] end
    if facts[i] == 'entries-added' then added = facts[i + 1] end
  end
end
if count == 0 and ahead(id, last) then return {-3} end

local fields = tonumber(take())
local states = at
at = at + fields
local outputs, candles = {}, 0 -- of each candle stream the interval, the place before its first pack, and the last one's
for n = 5, #KEYS do
  local interval, size = take(), tonumber(take())
  outputs[n] = {interval, at, at + size}
  at = at + size
  candles = candles + size
end
local refused = tonumber(take())

local writes = count > 0 or fields > 0 or candles > 0
if writes then
  local no = refusal('HSET', KEYS[1], 'commits', number) or refusal('XGROUP', 'SETID', KEYS[3], group, id)
  for n = 4, #KEYS do no = no or refusal('XADD', KEYS[n], '*', '', '') end
  no = no or refusal('PEXPIRE', KEYS[2], 1) or refusal('DEL', KEYS[2])
  if no then return no end
end

local keys, ids, had = {}, {}, 0 -- of what was appended, and how many
local pcall, type, unpacked, some = redis.pcall, type, cmsgpack.unpack, cmsgpack.unpack_limit
local function taken_back(no)
  for n = had, 1, -1 do pcall('XDEL', keys[n], ids[n]) end
  return no
end

if writes then
  for _ = 1, refused do
    local size = tonumber(take())
    local done = pcall('XADD', KEYS[4], 'MAXLEN', '~', dead_maxlen, '*', unpack(ARGV, at + 1, at + size))
    if type(done) ~= 'string' then return taken_back(done) end
    had = had + 1
    keys[had], ids[had] = KEYS[4], done
    at = at + size
  end
  for n = 5, #KEYS do
    local key, output = KEYS[n], outputs[n]
    local interval, done, symbol, start, open, high, low, close, volume, trades = output[1]
    for place = output[2] + 1, output[3] do
      local pack, from = ARGV[place], 0
      repeat
        from, symbol, start, open, high, low, close, volume, trades = some(pack, 8, from)
        if maxlen == '0' then
          done = pcall('XADD', key, '*',
            'symbol', symbol, 'interval_ms', interval, 'candle_start_ms', start, 'open', open, 'high', high,
            'low', low, 'close', close, 'volume', volume, 'trade_count', trades)
        else
          done = pcall('XADD', key, 'MAXLEN', '~', maxlen, '*',
            'symbol', symbol, 'interval_ms', interval, 'candle_start_ms', start, 'open', open, 'high', high,
            'low', low, 'close', close, 'volume', volume, 'trade_count', trades)
        end
        if type(done) ~= 'string' then return taken_back(done) end
        had = had + 1
        keys[had], ids[had] = key, done
      until from < 0
    end
  end
  local read = tonumber(redis.call('HGET', KEYS[1], 'read') or -1)
  if id == last then read = added elseif read >= 0 then read = read + count end
  redis.call('HSET', KEYS[1], 'commits', number + 1, 'id', id, 'read', read)
  for n = states + 1, states + fields do redis.call('HSET', KEYS[1], unpacked(ARGV[n])) end
  local set = {'XGROUP', 'SETID', KEYS[3], group, id}
  if read >= 0 then set[6], set[7] = 'ENTRIESREAD', read end
  if redis.pcall(unpack(set)).err then redis.call('XGROUP', 'CREATE', KEYS[3], group, id, 'MKSTREAM') end
end
if lease > 0 then redis.call('PEXPIRE', KEYS[2], lease) else redis.call('DEL', KEYS[2]) end
return {1}
