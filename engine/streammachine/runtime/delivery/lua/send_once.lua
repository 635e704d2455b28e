-- Append an entry unless one with the same deduplication key was appended within the window.
--
-- KEYS[1] the stream; KEYS[2] the deduplication key
-- ARGV[1] window in ms; ARGV[2] MAXLEN to keep about (0: all); ARGV[3+] the fields
--
-- refusal(command, ...) is redis/may.lua's, which is put before this.
-- Gives {1, id} when it was appended, {0, id of the first one} when it was a repeat.

local first = redis.call('GET', KEYS[2])
if first then return {0, first} end
local no = refusal('SET', KEYS[2], '', 'PX', ARGV[1]) -- else a repeat would append it again
if no then return no end
local id
if ARGV[2] == '0' then
  id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
else
  id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, 3))
end
redis.call('SET', KEYS[2], id, 'PX', ARGV[1])
return {1, id}
