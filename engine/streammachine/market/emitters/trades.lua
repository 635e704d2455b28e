-- Append trades to one stream, each once.
-- KEYS[1] the stream. ARGV[1] about how many entries to keep, 0: all. ARGV[2] the name of the field with the trade's id.
-- ARGV[3] how many milliseconds a trade may be behind the stream's end; then for each row: milliseconds, the trade's id,
-- "1" where that is a number, number of arguments that follow, names and values in turn.
-- Gives for each row 1 (appended), 0 (it is there) or -1 (older than the stream's end and not in it).
-- The entry's id is <milliseconds>-<trade id> where the trade's id is a number, else <milliseconds>-<next>. A trade that
-- comes a little late gets the milliseconds of the stream's end.
-- Invariant: as in klines.lua.
local maxlen, name, late = ARGV[1], ARGV[2], tonumber(ARGV[3])
local results = {}

local function holds(from, to, trade)
  while true do
    local page = redis.call('XRANGE', KEYS[1], from, to, 'COUNT', 500)
    for _, entry in ipairs(page) do
      local fields = entry[2]
      for at = 1, #fields, 2 do
        if fields[at] == name and fields[at + 1] == trade then
          return true
        end
      end
    end
    if #page < 500 then
      return false
    end
    from = '(' .. page[#page][1]
  end
end

local newest = -1
if redis.call('EXISTS', KEYS[1]) == 1 then
  local facts = redis.call('XINFO', 'STREAM', KEYS[1])
  for place = 1, #facts, 2 do
    if facts[place] == 'last-generated-id' then
      newest = tonumber(string.match(facts[place + 1], '^%d+'))
    end
  end
end

local at = 4
while at <= #ARGV do
  local milliseconds, trade, number, count = ARGV[at], ARGV[at + 1], ARGV[at + 2] == '1', tonumber(ARGV[at + 3])
  local call = {'XADD', KEYS[1]}
  if maxlen ~= '0' then
    call[3], call[4], call[5] = 'MAXLEN', '~', maxlen
  end
  local id = #call + 1
  call[id] = milliseconds .. '-' .. (number and trade or '*')
  for field = at + 4, at + 3 + count do
    call[#call + 1] = ARGV[field]
  end
  at = at + 4 + count

  local own = tonumber(milliseconds)
  local result = 1
  if own <= newest then
    if number and holds(call[id], call[id], trade) then
      result = 0
    elseif holds(milliseconds, string.format('%.0f', math.min(newest, own + late)), trade) then
      result = 0
    elseif own < newest - late then
      result = -1
    end
  end
  if result == 1 then
    local reply = redis.pcall(unpack(call))
    if type(reply) == 'table' and reply.err then
      if not string.find(reply.err, 'equal or smaller', 1, true) then
        return reply
      end
      call[id] = string.format('%.0f', newest) .. '-*'
      redis.call(unpack(call))
    end
    newest = math.max(newest, own)
  end
  results[#results + 1] = result
end
return results
