-- Count the start of an entry that was taken over.
--
-- KEYS[1] the stream; ARGV group, our consumer name, the id, the delivery count with this start
--
-- Invariant: only its present owner starts an entry; who was paused beyond the lease takes it from nobody.
-- Gives 1, or 0 when the entry is not ours any more (taken over, finished or trimmed).

local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)[1]
if not row or row[2] ~= ARGV[2] then return 0 end
return #redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'RETRYCOUNT', ARGV[4])
