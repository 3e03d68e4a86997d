"""Traces of instructions: against qemu's, and what they cost the guest (nothing: not an instruction, not a result)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import vm_core
from vm_core import isa as isas
from vm_core.errors import UsageError
from vm_core.isa.riscv.state import X_NAMES
from vm_core.runner import DEVNULL, PIPE
from vm_core.testing.guests import program

ENGINES = ("interp", "jit", "reference")
LOOP = program(
    "_start: li s0, 3\nloop: call double\n addi s0, s0, -1\n bne s0, zero, loop\n la t0, cell\n li t1, 7\n sd t1, 0(t0)\n"
    "lw t2, 4(t0)\n lb t2, 0(t0)\n amoadd.d t3, t1, (t0)\n li a0, 1\n mv a1, t0\n li a2, 1\n li a7, 64\n ecall\n"
    "li a0, 5\n li a7, 94\n ecall\ndouble: add s1, s0, s0\n ret\n .align 8\ncell: .dword 0\n"
)
FORK = program(
    "li a0, 17\n li a1, 0\n li a7, 220\n ecall\n bne a0, zero, parent\n li a0, 3\n li a7, 94\n ecall\n"
    "parent: li a1, 0\n li a2, 0\n li a3, 0\n li a7, 260\n ecall\n li a0, 4\n li a7, 94\n ecall\n"
)


def traced(image: bytes, engine: str, **options: object) -> tuple[list[vm_core.Step], vm_core.RunResult]:
    steps: list[vm_core.Step] = []
    trace = vm_core.InstructionTrace(steps=steps.append, **options)  # type: ignore[arg-type]
    result = vm_core.run(
        ["x"], program=image, engine=engine, trace=trace, stdout=PIPE, stdin=DEVNULL, timeout=60, env={}
    )
    return steps, result


@pytest.mark.parametrize("engine", ENGINES)
def test_each_instruction_is_there(engine: str) -> None:
    steps, result = traced(LOOP, engine)
    assert (result.returncode, result.stdout) == (5, b"\x0e")
    assert len(steps) == result.instructions
    assert [step.number for step in steps] == list(range(len(steps)))
    texts = [step.text for step in steps]
    assert texts[:4] == ["addi s0, zero, 3", "jal ra, 72", "add s1, s0, s0", "jalr zero, 0(ra)"]
    assert steps[0].registers == (("s0", 0, 3),)
    by_text = {step.text: step for step in steps}
    store, load = by_text["sd t1, 0(t0)"], by_text["lb t2, 0(t0)"]
    cell = store.memory[0].address
    assert cell % 8 == 0
    assert store.memory == (("w", cell, 8, 7),)
    assert load.memory == (("r", cell, 1, 7),)
    assert load.registers == (("t2", 0, 7),)
    assert by_text["lw t2, 4(t0)"].memory == (("r", cell + 4, 4, 0),)
    atomic = by_text["amoadd.d t3, t1, (t0)"]
    assert atomic.memory == (("r", cell, 8, 7), ("w", cell, 8, 14))
    calls = [step for step in steps if step.led_to]
    assert [step.led_to for step in calls] == ["syscall write", "syscall exit_group"]
    assert calls[0].line().endswith(" # syscall write")


def test_engines_agree_on_every_line() -> None:
    lines = [
        [step.line().replace(str(step.tid), "") for step in traced(LOOP, engine)[0]] for engine in ENGINES
    ]
    assert lines[0] == lines[1] == lines[2]
    assert (
        lines[0][0] == f"{'0x10000:':<34} {'13 04 30 00':<12} addi s0, zero, 3".ljust(76) + " # s0=0x0->0x3"
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fuel", [1, 4, 13])
def test_a_budget_is_exact(engine: str, fuel: int) -> None:
    steps: list[vm_core.Step] = []
    result = vm_core.run(
        ["x"],
        program=LOOP,
        engine=engine,
        trace=vm_core.InstructionTrace(steps=steps.append),
        fuel=fuel,
        env={},
    )
    assert (result.reason, result.instructions, len(steps)) == ("fuel", fuel, fuel)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_part_of_a_program(engine: str) -> None:
    every, whole = traced(LOOP, engine)
    start = next(step.pc for step in every if step.text == "add s1, s0, s0")
    steps, result = traced(LOOP, engine, start=f"{start:#x}", count=4)
    assert [step.text for step in steps] == [step.text for step in every[2:6]]
    assert result.instructions == whole.instructions
    for spelling in (f"{start:#x}-{start + 3:#x}", f"{start:#x}+4", f"{start}"):
        steps, result = traced(LOOP, engine, ranges=(spelling,))
        assert [step.text for step in steps] == ["add s1, s0, s0"] * 3
        assert (result.returncode, result.instructions) == (5, whole.instructions)
    steps, _ = traced(LOOP, engine, ranges=(f"{start:#x}+4", "0x20000+0x20000"))  # too large for breakpoints
    assert [step.text for step in steps] == ["add s1, s0, s0"] * 3
    steps, _ = traced(LOOP, engine, ranges=(f"{start:#x}+4",), count=2)
    assert len(steps) == 2


def test_a_fault() -> None:
    steps, result = traced(program("li a0, 16\n ld a1, 0(a0)\n"), "interp")
    assert result.signal == 11
    assert steps[-1].led_to == "trap load 0x10"
    assert steps[-1].memory == steps[-1].registers == ()
    steps, _ = traced(program("li a0, 16\n jalr zero, 0(a0)\n"), "interp")
    assert (steps[-1].led_to, steps[-1].text, steps[-1].data) == ("trap fetch", "?", b"")


@pytest.mark.parametrize("wrong", [{"start": "main"}, {"ranges": ("1-x",)}, {"ranges": ("f",)}, {"count": 0}])
def test_wrong_use(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="trace: "):
        traced(LOOP, "interp", **wrong)


@pytest.mark.parametrize("follow", [True, False])
def test_a_child_process(tmp_path: Path, follow: bool) -> None:
    out = tmp_path / "out"
    trace = vm_core.InstructionTrace(output=str(out), follow=follow, json=True)
    assert vm_core.run(["x"], program=FORK, engine="interp", trace=trace, timeout=60, env={}).returncode == 4
    steps = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({step["pid"] for step in steps}) == (2 if follow else 1)
    ends = [step["registers"] for step in steps if step["text"] == "addi a7, zero, 94"]
    assert len(ends) == (2 if follow else 1)
    assert [step["led_to"] for step in steps].count("syscall exit_group") == len(ends)
    assert [step["led_to"] for step in steps].count("syscall clone") == 1


# -- qemu ------------------------------------------------------------------------------------------------------------

SOURCE = r"""
static unsigned long stack[512];
static int values[40];
static double numbers[8];
static void sort(int *first, int count) {
    for (int i = 1; i < count; i++)
        for (int j = i; j && first[j - 1] > first[j]; j--) {
            int other = first[j];
            first[j] = first[j - 1], first[j - 1] = other;
        }
}
static int work(void) {
    unsigned seed = 12345;
    for (int i = 0; i < 40; i++) values[i] = (seed = seed * 1103515245 + 12345) >> 16;
    sort(values, 40);
    for (int i = 0; i < 8; i++) numbers[i] = values[i] / 3.0 + (i ? numbers[i - 1] : 0.5);
    __atomic_fetch_add(&values[0], 5, __ATOMIC_SEQ_CST);
    return (int)numbers[7] % 100 + values[39] % 7;
}
void _start(void) {
    __asm__ volatile("la sp, %0\n li a0, 4096\n add sp, sp, a0\n call go" ::"i"(stack));
}
__attribute__((used)) void go(void) {
    register long code __asm__("a0") = work(), number __asm__("a7") = 94;
    __asm__ volatile("ecall" ::"r"(code), "r"(number));
}
"""


@pytest.mark.needs_cc
@pytest.mark.needs_qemu
@pytest.mark.parametrize("engine", ENGINES)
def test_places_and_registers_are_those_of_qemu(tmp_path: Path, engine: str) -> None:
    compiler, qemu = shutil.which("riscv64-linux-gnu-gcc"), shutil.which("qemu-riscv64")
    if compiler is None or qemu is None:
        pytest.skip("riscv64-linux-gnu-gcc and qemu-riscv64 are not installed")
    source, out, log = tmp_path / "work.c", tmp_path / "work", tmp_path / "log"
    source.write_text(SOURCE)
    subprocess.run(
        [compiler, "-O1", "-static", "-nostdlib", "-ffreestanding", "-w", "-o", out, source], check=True
    )
    done = subprocess.run(
        [qemu, "-singlestep", "-d", "cpu,nochain", "-D", log, out], check=False, timeout=100
    )
    places: list[int] = []
    states: list[dict[str, int]] = []
    for line in log.read_text().splitlines():
        if found := re.match(r"\s*pc\s+([0-9a-f]+)", line):
            places.append(int(found[1], 16))
            states.append({})
        for name, value in re.findall(r"x\d+/(\w+)\s+([0-9a-f]{16})", line):
            states[-1][name] = int(value, 16)
    steps, result = traced(out.read_bytes(), engine)
    assert result.returncode == done.returncode
    assert [step.pc for step in steps] == places
    assert len(places) > 5000
    registers = dict.fromkeys(X_NAMES, 0)
    registers["sp"] = steps[0].registers[0][1] if steps[0].registers[0][0] == "sp" else states[0]["sp"]
    started = False
    for step, state in zip(steps, states, strict=True):
        if started:
            ours = {
                name: registers[name]
                for name in ("ra", "sp", "gp", "tp", *(f"a{i}" for i in range(8)), "s1", "t0", "t1")
            }
            assert ours == {name: state[name] for name in ours}, hex(step.pc)
        for name, old, new in step.registers:
            if name in registers:
                assert registers[name] == old or not started, hex(step.pc)
                registers[name] = new
        started = started or any(name == "sp" and new < 1 << 24 for name, _, new in step.registers)


def test_the_decoded_text_is_that_of_the_bytes() -> None:
    rv64 = isas.get("rv64")
    for step in traced(LOOP, "interp")[0]:
        assert rv64.decode(step.data, step.pc).text() == step.text


@pytest.mark.needs_cc
@pytest.mark.parametrize("engine", ENGINES)
def test_functions_of_libraries(tmp_path: Path, engine: str) -> None:
    """They are mapped only when the program runs already."""
    compiler, tree = shutil.which("riscv64-linux-gnu-gcc"), Path("/usr/riscv64-linux-gnu")
    if compiler is None or not tree.is_dir():
        pytest.skip("riscv64-linux-gnu-gcc is not installed")
    source, out = tmp_path / "count.c", tmp_path / "count"
    source.write_text("int atoi(); int main(int n, char **v) { return atoi(v[1]) + atoi(v[1]); }")
    subprocess.run([compiler, "-w", "-O1", "-fno-builtin", "-o", out, source], check=True)
    steps: list[vm_core.Step] = []
    trace = vm_core.InstructionTrace(steps=steps.append, ranges=("main", "atoi"))
    result = vm_core.run([str(out), "11"], sysroot=tree, engine=engine, trace=trace, timeout=60, cwd=tmp_path)
    assert result.returncode == 22
    assert {step.symbol.partition("+")[0] for step in steps} == {"main", "atoi"}
    entries = [step.pc for step in steps if "+" not in step.symbol]
    assert len(entries) == 3
    assert len(set(entries)) == 2
