-- ARGV: name of the running attempt, its completion, ttl in ms.
-- When the completion expires; the value that is kept, as `told` has it, where the attempt had
-- completed before, whatever was sent now; nothing where it is another.
local name = redis.call('GETRANGE', KEYS[1], 0, 31)
if name == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return redis.call('PEXPIRETIME', KEYS[1])
elseif string.byte(name, 2) == 3 and string.sub(name, 5) == string.sub(ARGV[1], 5) then
  return {redis.call('GET', KEYS[1]), 0, redis.call('PEXPIRETIME', KEYS[1])}
end
return false
