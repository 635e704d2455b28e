-- Move delayed messages that are due into the retry companion, where their group reads them.
--
-- KEYS[1] the delayed ones: a sorted set, score = epoch ms when due, member = msgpack array of field, value, ...
-- KEYS[2] the retry companion (a stream)
-- ARGV[1] epoch ms now; ARGV[2] how many to move at most
--
-- Invariant: a message stands in exactly one of both keys.
-- Gives {moved, epoch ms when the next one is due or ""}.

local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, member in ipairs(due) do
  redis.call('XADD', KEYS[2], '*', unpack(cmsgpack.unpack(member)))
  redis.call('ZREM', KEYS[1], member)
end
local following = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {#due, following[2] or ''}
