-- Create a lost group again, where nothing is skipped and little is repeated.
--
-- KEYS[1] the stream; KEYS[2] the mark that mark.lua wrote; ARGV[1] the group
--
-- Invariant: it begins at the mark only where the stream is the one that the mark was made on, else at the start.
-- Gives the id that it begins behind; "" when somebody else has created it meanwhile.

local start, mark = '0', redis.call('GET', KEYS[2])
if mark and redis.call('EXISTS', KEYS[1]) == 1 then
  local id, added = string.match(mark, '^(%S+) (%d+)$')
  local facts = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #facts, 2 do
    if facts[i] == 'entries-added' and id and facts[i + 1] >= tonumber(added) then start = id end
  end
end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], start, 'MKSTREAM')
if made.err then
  if string.find(made.err, 'BUSYGROUP') then return '' end
  return made
end
return start
