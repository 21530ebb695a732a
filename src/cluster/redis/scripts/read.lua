-- What the key holds, at one instant.
local value = redis.call('GET', KEYS[1])
return value and told(value)
