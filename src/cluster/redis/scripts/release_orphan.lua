-- ARGV: token seen, ttl in ms.
local value, cause = orphan(KEYS[1], ARGV[1])
if value and cause then
  local released = '\1\4' .. string.char(cause, 0) .. string.sub(value, 5, 72) .. string.rep('\0', 8)
  redis.call('SET', KEYS[1], released, 'PX', ARGV[2])
  return 1
elseif value and string.sub(value, 1, 2) == '\1\4' and string.sub(value, 25, 32) == ARGV[1] then
  return 1
end
return 0
