-- Take over entries whose lease ran out, the oldest first.
--
-- KEYS[1] the stream
-- ARGV    group, our consumer name, lease in ms, the cursor of the last walk, how many at most, the name of the consumer
--         that ended ones hand their entries to, how many entries of living consumers to look at, how many to walk over
--
-- The entries of a dead consumer are asked for under its name, so it does not matter how many others hold before them. One
-- that lives may have let go of some, too: those are looked for among its entries, as long as they are few enough; what is
-- left is walked over in parts, from sweep to sweep.
--
-- Invariant: the delivery counts stay as they are; they rise when a handler starts (begin.lua).
-- Gives {cursor, {{id, delivery count, {field, value, ...}}, ...}, ids that were pending and trimmed away}.
-- ahead(a, b) is redis/ids.lua's, which is put before this.

local key, group, me, lease, cursor, most, ended = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), ARGV[6]
local look, walk = tonumber(ARGV[7]), tonumber(ARGV[8])

local due, whole = {}, true
for _, facts in ipairs(redis.call('XINFO', 'CONSUMERS', key, group)) do
  local consumer = {}
  for i = 1, #facts, 2 do consumer[facts[i]] = facts[i + 1] end
  if consumer.pending > 0 then
    local dead = consumer.idle > lease or consumer.name == ended
    if dead or consumer.pending <= look then
      if not dead then look = look - consumer.pending end
      for _, row in ipairs(redis.call('XPENDING', key, group, 'IDLE', lease, '-', '+', most, consumer.name)) do
        due[#due + 1] = row
      end
    else
      whole = false
    end
  end
end
table.sort(due, function(a, b) return ahead(b[1], a[1]) end)

local taken, trimmed = {}, {}
local function take(id, deliveries)
  local entry = redis.call('XRANGE', key, id, id)[1]
  if entry then taken[#taken + 1] = {id, deliveries, entry[2]} else trimmed[#trimmed + 1] = id end
end

for first = 1, math.min(most, #due), 1000 do
  local ids = {}
  for n = first, math.min(first + 999, most, #due) do
    ids[#ids + 1] = due[n][1]
    take(due[n][1], due[n][4])
  end
  local command = {'XCLAIM', key, group, me, lease}
  for _, id in ipairs(ids) do command[#command + 1] = id end
  command[#command + 1] = 'JUSTID'
  redis.call(unpack(command)) -- trimmed ones leave the pending list here
end

while not whole and walk > 0 and #taken < most do
  local left = most - #taken
  local reply = redis.call('XAUTOCLAIM', key, group, me, lease, cursor, 'COUNT', left, 'JUSTID')
  for _, id in ipairs(reply[2]) do
    local row = redis.call('XPENDING', key, group, id, id, 1)[1]
    if row then take(id, row[4]) end
  end
  for _, id in ipairs(reply[3] or {}) do trimmed[#trimmed + 1] = id end
  cursor, walk = reply[1], walk - 10 * left
  if cursor == '0-0' then break end
end

if #taken > 0 and #redis.call('XPENDING', key, group, '-', '+', 1, ended) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', key, group, ended)
end
return {cursor, taken, trimmed}
