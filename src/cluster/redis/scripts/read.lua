-- What the key holds, and the ms it has left, at one instant.
local value = redis.call('GET', KEYS[1])
return value and {value, redis.call('PTTL', KEYS[1])}
