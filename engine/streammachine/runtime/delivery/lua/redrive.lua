-- Give a dead letter back to the group that failed on it.
--
-- KEYS[1] the dead-letter stream; KEYS[2] the retry companion of the group
-- ARGV[1] the dead letter's id; ARGV[2+] the fields of the new entry
--
-- Invariant: the dead letter vanishes in the same step in which the message stands in the companion.
-- Gives the new id, or false when there is no such dead letter any more.
-- refusal(command, ...) is redis/may.lua's, which is put before this.

if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return false end
local no = refusal('XDEL', KEYS[1], ARGV[1])
if no then return no end
local id = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2)) -- first: what fails here leaves the dead letter where it is
redis.call('XDEL', KEYS[1], ARGV[1])
return id
