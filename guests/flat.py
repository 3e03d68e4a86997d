"""Write a large flat C program: many different functions that each run a few times, as a compiler or a browser does.

    python guests/flat.py > flat.c

The text is the same each time (it depends on the seed below alone). Its machine code is 300 to 400 KiB on riscv64, nearly
all of it executed; nothing in it is hot, so what counts is how fast a translator starts on code that it has not seen.
"""

from __future__ import annotations

import random
import sys

SEED = 20
FUNCTIONS = 1150
STATEMENTS = (12, 34)

HEAD = """\
/* Written by guests/flat.py. Size: passes over all functions. */
#include "guest.h"

static uint64_t cells[4096];
"""


def expression(rng: random.Random, names: list[str], depth: int) -> str:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice([*names, f"{rng.randrange(1, 1 << rng.choice((4, 11, 11, 20, 31)))}ul"])
    a, b = rng.choice(names), expression(rng, names, depth - 1)
    match rng.randrange(9):
        case 0 | 1:
            return f"({a} + {b})"
        case 2:
            return f"({a} - {b})"
        case 3:
            return f"({a} ^ {b})"
        case 4:
            return f"({a} & {b})"
        case 5:
            return f"({a} * {b})"
        case 6:
            return f"({a} >> {rng.randrange(1, 30)})"
        case 7:
            return f"({a} | {b} << {rng.randrange(1, 12)})"
        case _:
            return f"cells[({a}) & 4095]"


def function(rng: random.Random, number: int) -> str:
    """One function of two numbers. Every eighth calls one of the seven before it, which call nothing."""
    names = ["a", "b", "x", "y"]
    lines = [f"static NOINLINE uint64_t f{number}(uint64_t a, uint64_t b) {{"]
    lines.append(f"    uint64_t x = {expression(rng, names[:2], 2)}, y = {expression(rng, names[:2], 1)};")
    for _ in range(rng.randrange(*STATEMENTS)):
        target = rng.choice(names)
        match rng.randrange(7):
            case 0:
                test = expression(rng, names, 1)
                lines.append(f"    if (({test}) & {rng.randrange(1, 8)})")
                lines.append(f"        {target} = {expression(rng, names, 2)};")
                lines.append("    else")
                lines.append(f"        {rng.choice(names)} += {expression(rng, names, 1)};")
            case 1:
                lines.append(
                    f"    cells[({expression(rng, names, 1)}) & 4095] = {expression(rng, names, 1)};"
                )
            case 2:
                lines.append(f"    for (int i = 0; i < {rng.randrange(2, 4)}; i++)")
                lines.append(f"        {target} = {target} * 3 + cells[(y + (uint64_t)i) & 4095];")
            case _:
                lines.append(f"    {target} = {expression(rng, names, 2)};")
    if number % 8 == 7:
        lines.append(f"    y += f{number - rng.randrange(1, 8)}(x, y);")
    lines.append("    return guest_mix(a ^ y, b + x);")
    lines.append("}")
    return "\n".join(lines)


def program(functions: int = FUNCTIONS, seed: int = SEED) -> str:
    rng = random.Random(seed)
    parts = [HEAD, *(function(rng, number) for number in range(functions))]
    # Half of the functions are called directly, the others through a table.
    direct = "\n".join(f"    hash = f{n}(hash, pass);" for n in range(0, functions, 2))
    table = ", ".join(f"f{n}" for n in range(1, functions, 2))
    parts.append(
        f"static uint64_t (*volatile const table[])(uint64_t, uint64_t) = {{{table}}};\n\n"
        f"static NOINLINE uint64_t once(uint64_t hash, uint64_t pass) {{\n{direct}\n"
        "    for (size_t i = 0; i < sizeof table / sizeof *table; i++)\n"
        "        hash = table[i](hash, pass);\n"
        "    return hash;\n}\n"
    )
    parts.append(
        "int main(int argc, char **argv) {\n"
        "    unsigned long passes = guest_size(argc, argv, 2);\n"
        "    uint64_t hash = GUEST_HASH;\n"
        "    for (unsigned long i = 0; i < passes; i++)\n"
        "        hash = once(hash, i);\n"
        '    printf("%lu passes %016llx %016llx\\n", passes, (unsigned long long)hash,\n'
        "           (unsigned long long)guest_hash(GUEST_HASH, cells, sizeof cells));\n"
        "    return 0;\n}\n"
    )
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(program())
