-- The same of a claim that has not ended.
local state = redis.call('GETRANGE', KEYS[1], 0, 1)
if state ~= '\1\1' and state ~= '\1\2' then
  return false
end
return told(redis.call('GET', KEYS[1]))
