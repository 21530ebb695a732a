-- ARGV: name of the running attempt, lease and age, ttl in ms.
if redis.call('GETRANGE', KEYS[1], 0, 31) ~= ARGV[1] then
  return 0
end
redis.call('SETRANGE', KEYS[1], 56, ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
