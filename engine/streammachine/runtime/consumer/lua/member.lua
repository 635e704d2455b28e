-- Be a member of those who share the partitions of a topic, or leave.
--
-- KEYS[1] the members of one group: a sorted set by the epoch ms at which each is taken for dead
-- ARGV[1] our name; ARGV[2] ms for which we count as alive (0: we leave)
--
-- Gives the names of all members.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[1], 2 * ARGV[2])
end
return redis.call('ZRANGE', KEYS[1], 0, -1)
