-- Append candles to one stream, each once.
-- KEYS[1] the stream. ARGV[1] about how many entries to keep, 0: all; then for each row: milliseconds, revision,
-- number of arguments that follow, names and values in turn.
-- Gives for each row 1 (appended), 0 (it, or a later state of the same candle, is there) or -1 (older than the stream's
-- end and not in it).
-- Invariant: of the same rows, in the same order, given again any number of times, each is in the stream at most once.
local maxlen = ARGV[1]
local results = {}
local at = 2
while at <= #ARGV do
  local milliseconds, revision, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local call = {'XADD', KEYS[1]}
  if maxlen ~= '0' then
    call[3], call[4], call[5] = 'MAXLEN', '~', maxlen
  end
  call[#call + 1] = milliseconds .. '-' .. revision
  for field = at + 3, at + 2 + count do
    call[#call + 1] = ARGV[field]
  end
  at = at + 3 + count
  local reply = redis.pcall(unpack(call))
  if type(reply) ~= 'table' or not reply.err then
    results[#results + 1] = 1
  elseif not string.find(reply.err, 'equal or smaller', 1, true) then
    return reply
  else
    local there = redis.call('XRANGE', KEYS[1], milliseconds .. '-' .. revision, milliseconds, 'COUNT', 1)
    results[#results + 1] = #there > 0 and 0 or -1
  end
end
return results
