-- ARGV: operation of a first attempt that nobody was told of, ttl in ms.
local head = redis.call('GETRANGE', KEYS[1], 0, 79)
if string.sub(head, 1, 8) == '\1\1\0\0\1\0\0\0' and string.sub(head, 9, 24) == ARGV[1] then
  local released = '\1\4' .. string.sub(head, 3, 72) .. string.rep('\0', 8)
  redis.call('SET', KEYS[1], released, 'PX', ARGV[2])
  return 1
end
return 0
