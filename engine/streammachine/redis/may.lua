-- To stand before scripts that write twice or more: the server's refusal of a command that this user may not run, or nil.
-- A script is not undone when one of its commands is refused, so all are asked for before the first write.
local function refusal(command, ...)
  if not redis.acl_check_cmd then return nil end
  local known, may = pcall(redis.acl_check_cmd, command, ...)
  if known and may then return nil end
  local answer = redis.pcall(command, ...)
  return type(answer) == 'table' and answer.err and answer or nil
end
