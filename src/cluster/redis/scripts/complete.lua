-- ARGV: name of the running attempt, record up to the stamp, ttl in ms.
-- The stamp; {stamp, flags} where the attempt had completed before; nothing where it is another.
local name = redis.call('GETRANGE', KEYS[1], 0, 31)
if name == ARGV[1] then
  local now = redis.call('TIME')
  local ms = now[1] * 1000 + math.floor(now[2] / 1000)
  redis.call('SET', KEYS[1], ARGV[2] .. struct.pack('<I8', ms), 'PXAT', ms + ARGV[3])
  return ms
elseif string.byte(name, 2) == 3 and string.sub(name, 5) == string.sub(ARGV[1], 5) then
  local stamp = redis.call('GETRANGE', KEYS[1], -8, -1)
  local ms = struct.unpack('<I8', stamp)
  return {ms, string.byte(name, 4)}
end
return false
