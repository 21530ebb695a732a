-- ARGV: token seen, fingerprint, token to be, ttl and lease as fields, ttl in ms.
-- What the key holds then, and 1 where this call took it over; nothing where there is no key.
local taken = 0
local value, cause, lived = orphan(KEYS[1], ARGV[1])
if not value then
  return false
elseif cause and string.sub(value, 33, 48) == ARGV[2] then
  local attempt = struct.unpack('<I4', value, 5) + 1
  local age = struct.unpack('<I8', value, 65) + lived
  value = '\1\1' .. string.char(cause, 0) .. struct.pack('<I4', attempt) .. string.sub(value, 9, 24)
    .. ARGV[3] .. ARGV[2] .. ARGV[4] .. struct.pack('<I8', age) .. string.sub(value, 73)
  redis.call('SET', KEYS[1], value, 'PX', ARGV[5])
  taken = 1
end
local answer = told(value)
answer[4] = taken
return answer
