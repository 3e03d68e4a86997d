-- A star and its planets under gravity: floating point and fields of tables. Argument: steps.
local sqrt = math.sqrt
local bodies = {}
local distance = 1.0
bodies[1] = {x = 0, y = 0, z = 0, vx = 0, vy = 0, vz = 0, mass = 1000}
for i = 2, 6 do
  local speed = sqrt(1000 / distance)
  bodies[i] = {x = distance, y = 0, z = 0.01 * i, vx = 0, vy = speed, vz = 0, mass = 1 / i}
  distance = distance * 1.7
end

local function step(dt)
  for i = 1, #bodies do
    local a = bodies[i]
    for j = i + 1, #bodies do
      local b = bodies[j]
      local dx, dy, dz = a.x - b.x, a.y - b.y, a.z - b.z
      local square = dx * dx + dy * dy + dz * dz
      local pull = dt / (square * sqrt(square))
      local pa, pb = pull * b.mass, pull * a.mass
      a.vx, a.vy, a.vz = a.vx - dx * pa, a.vy - dy * pa, a.vz - dz * pa
      b.vx, b.vy, b.vz = b.vx + dx * pb, b.vy + dy * pb, b.vz + dz * pb
    end
  end
  for i = 1, #bodies do
    local a = bodies[i]
    a.x, a.y, a.z = a.x + dt * a.vx, a.y + dt * a.vy, a.z + dt * a.vz
  end
end

local n = tonumber(arg[1] or 1000)
for _ = 1, n do step(0.0001) end
local sum = 0
for _, b in ipairs(bodies) do sum = sum + b.mass * (b.vx * b.vx + b.vy * b.vy + b.vz * b.vz) / 2 end
print(string.format("%d steps, energy of motion %.9f", n, sum))
