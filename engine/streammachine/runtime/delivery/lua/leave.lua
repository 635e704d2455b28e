-- Delete a consumer that holds nothing (deleting one that does would lose what it holds).
--
-- KEYS[1] the stream; ARGV group, the consumer's name, ms for which it must not have been seen (-1: any)
-- Gives 1 when it was deleted, else 0.

for _, facts in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #facts, 2 do consumer[facts[i]] = facts[i + 1] end
  if consumer.name == ARGV[2] and consumer.pending == 0 and consumer.idle > tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
    return 1
  end
end
return 0
