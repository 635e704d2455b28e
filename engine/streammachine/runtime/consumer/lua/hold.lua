-- Take, keep or give up the lease of one partition.
--
-- KEYS[1] the lease; ARGV[1] our name; ARGV[2] its ms (0: give it up)
--
-- Invariant: nobody takes a lease that another holds. Gives 1 when it is ours now, else 0.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
