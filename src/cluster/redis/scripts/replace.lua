-- ARGV: name of the running attempt, its next record, ttl in ms, name that counts as done.
local name = redis.call('GETRANGE', KEYS[1], 0, 31)
if name == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return 1
end
return name == ARGV[4] and 1 or 0
