"""Files that nobody should run, run: no crash of the host process, no traceback, no hang; each refusal is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

BATCHES = 4
RANDOM, MUTATED = 10_000 // BATCHES, 2_000 // BATCHES

SCRIPT = """
import json, os, random, sys, tempfile
import vm_core
from vm_core.errors import VmError

kind, seed, count, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
rng = random.Random(f"{kind} {seed}")
good = open(path, "rb").read()
seen = {}
with tempfile.TemporaryDirectory() as place:
    os.chdir(place)
    for number in range(count):
        if kind == "random":
            data = rng.randbytes(rng.choice((0, 1, 3, 4, 16, 63, 64, 100, 1000, 5000)))
            if rng.random() < 0.5:
                data = good[: rng.choice((4, 6, 16, 20, 64))] + data
        else:
            data = bytearray(good)
            for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
                # Half of the changes hit the headers, the others code and data.
                at = rng.randrange(0x200 if rng.random() < 0.5 else len(data))
                data[at] = rng.randrange(256) if rng.random() < 0.7 else rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            if rng.random() < 0.1:
                del data[rng.randrange(len(data)) :]
        with open("guest", "wb") as file:
            file.write(data)
        os.chmod("guest", 0o755)
        try:
            result = vm_core.run(
                ["./guest"], input=b"", capture_output=True, fuel=60_000, timeout=20, memory=64 << 20, engine=sys.argv[5]
            )
            outcome = result.reason
            assert "Traceback" not in result.stderr.decode(errors="replace"), (seed, number)
        except VmError as error:
            outcome = error.code
            text = str(error)
            assert text and "\\n" not in text, (seed, number, text)
            assert error.exit_status in (122, 125, 126, 127), (seed, number)
        seen[outcome] = seen.get(outcome, 0) + 1
        assert outcome != "timeout", (seed, number)
print(json.dumps(seen))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("random", RANDOM), ("mutated", MUTATED)])
@pytest.mark.parametrize("batch", range(BATCHES))
def test_hostile_files(kind: str, count: int, batch: int) -> None:
    """In a process of their own, so that a crash is this test's failure and names the seed."""
    from vm_cli.demo import program

    engine = ("jit", "baseline", "interp")[batch % 3]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind, str(batch), str(count), str(program()), engine],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        check=False,
    )
    assert done.returncode == 0, f"{kind} batch {batch}: status {done.returncode}\n{done.stderr[-3000:]}"
    seen = json.loads(done.stdout.splitlines()[-1])
    assert sum(seen.values()) == count
    assert seen.get("VM201", 0) > count // 20, seen
