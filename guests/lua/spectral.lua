-- The largest singular value of a known infinite matrix by power iteration: floating point in arrays. Argument: order.
local n = tonumber(arg[1] or 50)

local function entry(i, j) return 1 / ((i + j) * (i + j + 1) // 2 + i + 1) end

local function times(v, turned)
  local out = {}
  for i = 0, n - 1 do
    local sum = 0
    for j = 0, n - 1 do
      sum = sum + (turned and entry(j, i) or entry(i, j)) * v[j + 1]
    end
    out[i + 1] = sum
  end
  return out
end

local u, v = {}, nil
for i = 1, n do u[i] = 1 end
for _ = 1, 10 do
  v = times(times(u, false), true)
  u = times(times(v, false), true)
end
local uv, vv = 0, 0
for i = 1, n do uv, vv = uv + u[i] * v[i], vv + v[i] * v[i] end
print(string.format("order %d: %.9f", n, math.sqrt(uv / vv)))
