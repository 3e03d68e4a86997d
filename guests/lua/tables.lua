-- Tables: arrays sorted with a comparison function and without, hash tables with numbers and strings. Argument: thousands.
local n = math.floor(tonumber(arg[1] or 2) * 1000)
local seed = 11
local function random()
  seed = (seed * 1103515245 + 12345) % 2147483648
  return seed >> 8
end
local a, b = {}, {}
for i = 1, n do
  local x = random()
  a[i], b[i] = x, {key = x, place = i}
end
table.sort(a)
table.sort(b, function(p, q) if p.key ~= q.key then return p.key > q.key end return p.place < q.place end)
local counts, names = {}, {}
for i = 1, n do
  local k = a[i] % 1009
  counts[k] = (counts[k] or 0) + 1
  local name = "k" .. k % 97
  names[name] = (names[name] or 0) + b[i].place
end
local sum = 0
for k, v in pairs(counts) do sum = (sum + k * v) % 1000000007 end
for _, v in pairs(names) do sum = (sum + v) % 1000000007 end
for i = 1, n, 13 do sum = (sum * 3 + a[i] + b[i].key) % 1000000007 end
print(n .. " elements", a[1], b[1].key, sum)
