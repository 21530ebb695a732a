-- ARGV: operation and token of the running attempt, state and cause to be.
local name = redis.call('GETRANGE', KEYS[1], 0, 31)
if string.sub(name, 9, 32) ~= ARGV[1] then
  return 0
elseif string.byte(name, 2) == 1 then
  redis.call('SETRANGE', KEYS[1], 1, ARGV[2])
  return 1
end
return string.sub(name, 2, 3) == ARGV[2] and 1 or 0
