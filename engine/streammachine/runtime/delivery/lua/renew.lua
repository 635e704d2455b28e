-- Renew the lease of the entries that are still ours.
--
-- KEYS[1] the stream; ARGV group, our consumer name, the ids (at most 1000)
--
-- Invariant: an entry that somebody else holds by now stays with them. Delivery counts stay as they are.
-- Gives the ids that are not ours any more.

local ours, lost = {}, {}
for n = 3, #ARGV do
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[n], ARGV[n], 1)[1]
  local list = (row and row[2] == ARGV[2]) and ours or lost
  list[#list + 1] = ARGV[n]
end
if #ours > 0 then
  local command = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0}
  for _, id in ipairs(ours) do command[#command + 1] = id end
  command[#command + 1] = 'JUSTID'
  redis.call(unpack(command))
end
return lost
