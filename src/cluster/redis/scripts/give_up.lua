-- ARGV: token of the running attempt, operation or nothing, state and cause to be.
local name = redis.call('GETRANGE', KEYS[1], 0, 31)
if string.sub(name, 25, 32) ~= ARGV[1] or (ARGV[2] ~= '' and string.sub(name, 9, 24) ~= ARGV[2]) then
  return 0
elseif string.byte(name, 2) == 1 then
  redis.call('SETRANGE', KEYS[1], 1, ARGV[3])
  return 1
end
return string.sub(name, 2, 3) == ARGV[3] and 1 or 0
