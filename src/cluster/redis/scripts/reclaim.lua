-- ARGV: name of the released attempt, record of the next operation, ttl in ms.
-- What the key holds then.
local value = redis.call('GET', KEYS[1])
if not value or string.sub(value, 1, 32) == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return told(ARGV[2])
end
return told(value)
