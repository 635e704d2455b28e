-- To stand before scripts that compare stream ids: whether id a is the greater one, so further on in the stream.
-- As texts, since both parts go up to 2^64 and a Lua number is exact to 2^53.
local function ahead(a, b)
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  if am == bm then am, bm = as, bs end
  if #am ~= #bm then return #am > #bm end
  return am > bm
end
