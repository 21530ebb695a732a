-- The value of a key; then, where it is the orphan of the attempt with this token, the cause, and
-- how long the key has lived since its lease began.
local function orphan(key, token)
  local value = redis.call('GET', key)
  if not value or string.byte(value, 1) ~= 1 or string.sub(value, 25, 32) ~= token then
    return value
  end
  local left = redis.call('PTTL', key)
  local lived = math.max(struct.unpack('<I8', value, 49) - left, 0)
  local state = string.byte(value, 2)
  if state == 2 then
    return value, string.byte(value, 3), lived
  elseif state == 1 and left >= 0 and lived >= struct.unpack('<I8', value, 57) then
    return value, 1, lived
  end
  return value
end
