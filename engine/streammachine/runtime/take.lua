-- Take over entries whose lease ran out.
--
-- KEYS[1] the stream
-- ARGV    group, our consumer name, lease in ms, the cursor of the last sweep, how many at most, the name of the consumer
--         that ended ones hand their entries to
--
-- Invariant: the delivery counts stay as they are; they rise when a handler starts (begin.lua).
-- Gives {cursor, {{id, delivery count, {field, value, ...}}, ...}, ids that were pending and trimmed away}.

local reply = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5], 'JUSTID')
local taken = {}
for _, id in ipairs(reply[2]) do
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if row and entry then taken[#taken + 1] = {id, row[4], entry[2]} end
end
if #taken > 0 and #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[6]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[6])
end
return {reply[1], taken, reply[3] or {}}
