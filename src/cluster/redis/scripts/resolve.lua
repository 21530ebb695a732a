-- ARGV: token seen, response, flags, ttl as a field, ttl in ms.
-- The completion; nothing where the attempt is no orphan.
local value, cause, lived = orphan(KEYS[1], ARGV[1])
if not value then
  return false
end
local body = 81 + struct.unpack('<I2', value, 73)
if cause then
  local age = struct.unpack('<I8', value, 65) + lived
  value = '\1\3' .. string.char(cause) .. ARGV[3] .. string.sub(value, 5, 48) .. ARGV[4]
    .. string.sub(value, 57, 64) .. struct.pack('<I8', age) .. string.sub(value, 73, 76)
    .. '\0\0\0\0' .. string.sub(value, 81, body - 1) .. ARGV[2]
  redis.call('SET', KEYS[1], value, 'PX', ARGV[5])
  return told(value)
elseif string.sub(value, 1, 2) == '\1\3' and string.sub(value, 25, 32) == ARGV[1]
  and string.sub(value, body) == ARGV[2] then
  return told(value)
end
return false
