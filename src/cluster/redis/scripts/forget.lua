-- Leaves the operation and the token of what had ended; nothing of the request or its response.
local head = redis.call('GETRANGE', KEYS[1], 0, 79)
if string.sub(head, 1, 2) ~= '\1\3' then
  return 0
end
local released = '\1\4\0\0' .. string.sub(head, 5, 32) .. string.rep('\0', 16)
  .. string.sub(head, 49, 72) .. string.rep('\0', 8)
redis.call('SET', KEYS[1], released, 'KEEPTTL')
return 1
