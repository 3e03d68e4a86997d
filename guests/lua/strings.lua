-- Strings: built, joined, searched with patterns, replaced, taken apart. Argument: rounds.
local n = tonumber(arg[1] or 100)
local seed, total, kept = 7, 0, 0
local function random(limit)
  seed = (seed * 1103515245 + 12345) % 2147483648
  return seed // 65536 % limit
end
local words = {"guest", "machine", "page", "fault", "loop", "register", "memory", "call", "return", "branch"}
for round = 1, n do
  local parts = {}
  for i = 1, 60 do
    parts[i] = words[random(#words) + 1] .. (random(3) == 0 and tostring(random(1000)) or "")
  end
  local text = table.concat(parts, " ")
  local swapped = text:gsub("(%a+)(%d+)", "%2%1")
  for word in swapped:gmatch("%a+") do
    kept = kept + #word
  end
  local upper, s = swapped:upper(), ""
  for i = 1, 40 do s = s .. upper:sub(i, i) end
  if s:find("PAGE", 1, true) then kept = kept + 1 end
  for i = 1, #text, 7 do total = (total * 31 + text:byte(i)) % 1000000007 end
  total = (total + #string.format("%5d %s %x", round, s:rep(2), kept)) % 1000000007
end
print(n .. " rounds", total, kept)
