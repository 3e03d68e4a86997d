"""Floating point in Python: bodies that attract each other."""

import sys

bodies = [[n * 1.7 - 4, (n * n) % 5 - 2.5, n % 3 - 1.0, 0.1 * n, 0.0, -0.05 * n, 1.0 + n] for n in range(5)]
for _ in range(int(sys.argv[1])):
    for i, one in enumerate(bodies):
        for other in bodies[i + 1 :]:
            dx, dy, dz = one[0] - other[0], one[1] - other[1], one[2] - other[2]
            pull = 0.001 / (dx * dx + dy * dy + dz * dz + 0.01) ** 1.5
            for axis, d in ((3, dx), (4, dy), (5, dz)):
                one[axis] -= d * other[6] * pull
                other[axis] += d * one[6] * pull
    for body in bodies:
        for axis in range(3):
            body[axis] += 0.001 * body[axis + 3]
print(f"{sum(body[0] for body in bodies):.9f}")
