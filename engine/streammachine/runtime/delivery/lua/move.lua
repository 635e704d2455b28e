-- Move delayed messages that are due into the retry companion, where their group reads them.
--
-- KEYS[1] the delayed ones: a sorted set, score = epoch ms when due, member = msgpack array of field, value, ...
-- KEYS[2] the retry companion (a stream); KEYS[3] the dead letters
-- ARGV[1] epoch ms now; ARGV[2] how many to move at most; ARGV[3+] fields of a dead letter for a member that is none of ours
--
-- Invariant: a message stands in exactly one of the keys.
-- refusal(command, ...) is redis/may.lua's, which is put before this.
-- Gives {moved, epoch ms when the next one is due or "", ids of the dead letters for members that are none of ours}.

local function fields_of(member)
  local fine, fields = pcall(cmsgpack.unpack, member)
  if not fine or type(fields) ~= 'table' or #fields == 0 or #fields % 2 == 1 or #fields > 7900 then return end
  for _, part in ipairs(fields) do
    if type(part) ~= 'string' then return end
  end
  return fields
end

local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local no = #due > 0 and refusal('ZREM', KEYS[1], '') -- what is not taken out here would come again and again
if no then return no end
local moved, broken = 0, {}
for _, member in ipairs(due) do
  local fields = fields_of(member)
  if fields then
    redis.call('XADD', KEYS[2], '*', unpack(fields))
    moved = moved + 1
  else
    broken[#broken + 1] = redis.call('XADD', KEYS[3], '*', 'member', member, unpack(ARGV, 3))
  end
  redis.call('ZREM', KEYS[1], member)
end
local following = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {moved, following[2] or '', broken}
