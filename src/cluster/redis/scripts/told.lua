-- A value, the ms that its key has left, and when it expires.
local function told(value)
  return {value, redis.call('PTTL', KEYS[1]), redis.call('PEXPIRETIME', KEYS[1])}
end
