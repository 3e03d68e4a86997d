"""Programs of the host on its own processor, under KVM: what they print, and how they end, is what they do without vm."""

from __future__ import annotations

import gc
import os
import platform
import random
import re
import shutil
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import keystone
import pytest

from vm_accel.errors import GuestEnded, GuestFault, GuestTimeout
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.user import engine as engine_module
from vm_accel.user import space
from vm_accel.user.engine import KvmEngine
from vm_accel.user.guest import Guest
from vm_core import isa
from vm_core.engine import Trap
from vm_core.errors import EngineUnavailable, UsageError
from vm_core.linux.abi import abi_of
from vm_core.memory import HUGE, PAGE, GuestMemory, Prot
from vm_core.runner import RunResult, run


def _run(*words: str | Path, **options: object) -> RunResult:
    found = run(
        [str(word) for word in words],
        **{"engine": "kvm", "sysroot": "/", "capture_output": True, "timeout": 60.0, **options},  # type: ignore[arg-type]
    )
    assert found.stats is not None
    return found


def test_the_stubs_are_what_their_sources_say() -> None:
    assembler = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)
    for name, text in space.SOURCES.items():
        assert bytes(assembler.asm(text)[0]) == space.STUBS[name]


@pytest.mark.kvm
@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("name", ["faults", "processes", "traps"])
def test_a_program_does_what_it_does_on_the_host(programs: Path, name: str, kind: str) -> None:
    program = programs / f"{name}-{kind}"
    native = subprocess.run([program], capture_output=True, check=False)
    found = _run(program, trust=True)
    assert found.stdout.decode() == native.stdout.decode()
    assert (found.returncode, found.reason) == (native.returncode, "exit")


@pytest.mark.kvm
def test_calls_of_the_page_of_old_c_libraries(programs: Path) -> None:
    found = _run(programs / "vsyscall-static")
    assert found.stdout.decode().splitlines() == [
        "gettimeofday 0 1",
        "time 1 1",
        "getcpu 0 1 1",
        "bad pointer: signal 11 code 128",
        "another function: signal 11 code 128",
        "inside: signal 11 code 128",
        "read: signal 11 code 1",
    ]


@pytest.mark.kvm
def test_a_program_that_needs_more_addresses_than_there_are_is_told_so(kvm: Kvm, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    made = subprocess.run(
        ["cc", "-fsanitize=address", "main.c", "-o", "main"], cwd=tmp_path, capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs a C compiler with AddressSanitizer")
    found = _run(tmp_path / "main")
    assert (found.returncode, found.reason) == (1, "exit")
    assert "made with -fsanitize=address" in found.message
    assert "vm gives a program 4 GiB" in found.message


@pytest.mark.kvm
def test_a_program_that_may_not_trace_goes_on(kvm: Kvm, tmp_path: Path) -> None:
    (tmp_path / "trace.c").write_text(
        "#include <errno.h>\n#include <stdio.h>\n#include <sys/ptrace.h>\n#include <unistd.h>\n"
        "int main(void) {\n"
        "    long me = ptrace(PTRACE_TRACEME, 0, 0, 0), parent = ptrace(PTRACE_SEIZE, getppid(), 0, 0);\n"
        '    printf("%ld %ld %d\\n", me, parent, errno == EPERM);\n'
        "    return 0;\n}\n"
    )
    subprocess.run(["cc", "trace.c", "-o", "trace"], cwd=tmp_path, check=True)
    found = _run(tmp_path / "trace")
    assert (found.returncode, found.stdout) == (0, b"-1 -1 1\n")


@pytest.mark.kvm
def test_programs_of_the_host_run_unmodified(kvm: Kvm) -> None:
    sh = shutil.which("sh")
    if platform.machine() != "x86_64" or sh is None:
        pytest.skip("needs an x86-64 host with a shell")
    found = _run(
        sh,
        "-c",
        "i=0; while [ $i -lt 200 ]; do i=$((i+1)); done; echo $i $(echo sub); kill -USR1 $$",
        trust=True,
    )
    assert (found.stdout, found.signal) == (b"200 sub\n", 10)


@pytest.mark.kvm
def test_a_loop_without_system_calls_ends_by_the_timeout(programs: Path, tmp_path: Path) -> None:
    source = tmp_path / "loop.c"
    source.write_text("int main(void) { for (volatile long i = 0;; i++); }\n")
    subprocess.run(["cc", "-O1", source, "-o", tmp_path / "loop"], check=True)
    found = _run(tmp_path / "loop", timeout=0.3)
    assert found.reason == "timeout"
    assert found.phases["run"] < 10


@pytest.mark.kvm
def test_a_fault_that_nobody_handles_kills(programs: Path, tmp_path: Path) -> None:
    source = tmp_path / "die.c"
    source.write_text("int main(void) { *(volatile int *)24 = 1; }\n")
    subprocess.run(["cc", "-O1", source, "-o", tmp_path / "die"], check=True)
    found = _run(tmp_path / "die")
    assert found.signal == 11
    assert "0x18" in found.message


def _machine(code: str, *, prot: Prot = Prot.RX) -> tuple[KvmEngine, GuestMemory, object]:
    memory = GuestMemory()
    engine = KvmEngine(isa.get("x86_64"), memory)
    memory.map(0x10000, PAGE, prot)
    memory.poke(0x10000, bytes(keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64).asm(code, 0x10000)[0]))
    cpu = isa.get("x86_64").cpu()
    cpu.pc = 0x10000
    return engine, memory, cpu


@pytest.mark.kvm
def test_all_registers_go_in_and_out(kvm: Kvm) -> None:
    names = ["rax", "rbx", "rdx", "rsi", "rdi", "rsp", "rbp", *(f"r{i}" for i in range(8, 16)), "rcx"]
    code = "; ".join(f"add {name}, 1" for name in names) + "; stc; std; syscall"
    engine, memory, cpu = _machine(code)
    with memory:
        for i, name in enumerate(names):
            cpu[name] = 0x1111_0000_0000 * i + i  # type: ignore[index]
        cpu["fs_base"], cpu["gs_base"] = 0x7000, 0x8000  # type: ignore[index]
        assert type(engine.run(cpu, memory, 1)).__name__ == "Syscall"  # type: ignore[arg-type]
        for i, name in enumerate(names):
            if name not in ("rcx", "r11"):
                assert cpu[name] == 0x1111_0000_0000 * i + i + 1, name  # type: ignore[index]
        assert cpu["rcx"] == cpu.pc  # type: ignore[index, attr-defined]
        assert (cpu["cf"], cpu["df"], cpu["zf"]) == (1, 1, 0)  # type: ignore[index]
        engine.close()


@pytest.mark.kvm
def test_a_kick_that_comes_before_the_run_is_not_lost(kvm: Kvm) -> None:
    engine, memory, cpu = _machine("mov eax, 39; again: syscall; jmp again")
    with memory:
        engine.run(cpu, memory, 1)  # type: ignore[arg-type]
        engine.interrupt()
        assert type(engine.run(cpu, memory, 1)).__name__ == "Interrupted"  # type: ignore[arg-type]
        assert type(engine.run(cpu, memory, 1)).__name__ == "Syscall"  # type: ignore[arg-type]
        engine.close()


@pytest.mark.kvm
@pytest.mark.parametrize(
    "access", ["in al, 7", "in eax, 7", "out 7, eax", "mov edx, 7; rep insb", "mov edx, 7; rep outsb"]
)
def test_an_access_to_vms_port_leaves_nothing_behind(kvm: Kvm, access: str) -> None:
    """KVM would finish it at the next entry, which may be another thread's."""
    engine, memory, cpu = _machine(access)
    with memory:
        memory.map(0x50000, PAGE, Prot.RW)
        cpu["rdi"] = cpu["rsi"] = 0x50000  # type: ignore[index]
        cpu["rcx"] = 1 << 40  # type: ignore[index]
        found = engine.run(cpu, memory, 1)  # type: ignore[arg-type]
        assert found.cause.value == "refused"  # type: ignore[union-attr]
        memory.poke(0x10000, b"\x90" * 8 + b"\x0f\x05")
        other = isa.get("x86_64").cpu()
        cpu.outside = None  # type: ignore[attr-defined]
        gc.collect()
        for thread in (other, cpu):
            thread.pc, thread["rax"], thread["rcx"] = 0x10000, 5, 6  # type: ignore[attr-defined, index]
            assert type(engine.run(thread, memory, 1)).__name__ == "Syscall"  # type: ignore[arg-type]
            assert (thread.pc, thread["rax"]) == (0x1000A, 5)  # type: ignore[attr-defined, index]
        engine.close()


@pytest.mark.kvm
def test_random_code_is_a_trap_at_most(kvm: Kvm) -> None:
    engine, memory, _ = _machine("nop", prot=Prot.RWX)
    rng = random.Random(7)
    with memory:
        memory.map(0x50000, 16 * PAGE, Prot.RW)
        for _ in range(1500):
            code = rng.randbytes(rng.randrange(2, 24))
            memory.view[0x10000 : 0x10000 + PAGE] = code.ljust(PAGE, b"\xcc")
            thread = isa.get("x86_64").cpu()
            thread.pc, thread["rsp"] = 0x10000, 0x58000
            for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi"):
                thread[name] = 0x58000 + 8 * rng.getrandbits(10)
            timer = threading.Timer(0.2, engine.interrupt)
            timer.start()
            found = engine.run(thread, memory, 1)
            timer.cancel()
            assert type(found).__name__ in ("Trap", "Interrupted", "Syscall", "Breakpoint"), code.hex()
        engine.close()


@pytest.mark.kvm
def test_threads_that_end_leave_their_vcpu_to_others(kvm: Kvm) -> None:
    engine, memory, cpu = _machine("syscall")
    with memory:
        for _ in range(space.VCPUS + 20):
            other = cpu.copy()  # type: ignore[attr-defined]
            engine.run(other, memory, 1)
            del other
        assert len(engine._vm._vcpus) <= 3
        engine.close()


@pytest.mark.kvm
def test_an_area_that_the_processor_would_refuse_is_made_fit(kvm: Kvm) -> None:
    """A signal handler may write anything into its frame."""
    engine, memory, cpu = _machine("again: syscall; jmp again")
    with memory:
        engine.run(cpu, memory, 1)  # type: ignore[arg-type]
        outside = cpu.outside  # type: ignore[attr-defined]
        size = len(outside.save())
        for fill in (0x00, 0xFF, 0x5A):
            outside.load(bytes([fill]) * size)
            assert type(engine.run(cpu, memory, 1)).__name__ == "Syscall"  # type: ignore[arg-type]
        outside.load(os.urandom(size))
        engine.run(cpu, memory, 1)  # type: ignore[arg-type]
        engine.close()


def test_without_a_device_the_engine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> Kvm:
        return Kvm("/nonexistent/kvm")

    monkeypatch.setattr(engine_module, "_opened", opened)
    with GuestMemory() as memory:
        if platform.machine() == "x86_64":
            with pytest.raises(EngineUnavailable, match="/nonexistent/kvm") as caught:
                KvmEngine(isa.get("x86_64"), memory)
            assert "modprobe" in (caught.value.hint or "")
        with pytest.raises(EngineUnavailable, match="made for riscv64"):
            KvmEngine(isa.get("riscv64"), memory)
        assert not memory.table_changed


@pytest.mark.kvm
def test_a_program_finds_the_vector_units_that_it_finds_on_the_host(programs: Path, tmp_path: Path) -> None:
    source = tmp_path / "units.c"
    source.write_text(
        "#include <stdio.h>\n#include <immintrin.h>\n#include <unistd.h>\n"
        '__attribute__((target("avx2"))) static void use(void) {\n'
        "    int in[8] = {1, 2, 3, 4, 5, 6, 7, 8}, out[8];\n"
        "    __m256i v = _mm256_loadu_si256((void *)in);\n"
        '    __asm__ volatile("syscall" : "+x"(v) : "a"(39) : "rcx", "r11", "memory");\n'
        "    _mm256_storeu_si256((void *)out, _mm256_add_epi32(v, v));\n"
        '    for (int i = 0; i < 8; i++) printf("%d ", out[i]);\n'
        "}\n"
        "int main(void) {\n"
        '    int avx = __builtin_cpu_supports("avx"), avx2 = __builtin_cpu_supports("avx2");\n'
        '    printf("%d %d %d ", !!avx, !!avx2, !!__builtin_cpu_supports("avx512f"));\n'
        "    if (avx2) use();\n"
        "    return 0;\n}\n"
    )
    subprocess.run(["cc", "-O1", source, "-o", tmp_path / "units"], check=True)
    native = subprocess.run([tmp_path / "units"], capture_output=True, check=True)
    assert _run(tmp_path / "units").stdout == native.stdout


@pytest.mark.kvm
def test_what_counts_instructions_is_refused(programs: Path) -> None:
    with pytest.raises(UsageError, match="fuel"):
        _run(programs / "faults-static", fuel=100)


def test_page_table_entries_follow_the_permission_table() -> None:
    made = space.Space(1 << 20)
    assert made.fill(0x10000, bytes([0x80 | 3, 0x80 | 5, 0x80, 0x80 | 1, 0])) is space.Stale.NOTHING
    at = 0x10000 // PAGE
    entries = list(made.entries[at : at + 5])
    assert [row & 7 for row in entries] == [7, 5, 0, 5, 0]  # present, writable, user
    assert [row >> 63 for row in entries] == [1, 0, 0, 1, 0]  # not executable
    assert [row & 0x7FFF_FFFF_F000 for row in entries[:2]] == [space.ARENA + 0x10000, space.ARENA + 0x11000]
    assert made.fill(0x10000, bytes([0x80 | 7])) is space.Stale.NOTHING
    assert made.fill(0x10000, bytes([0x80 | 3])) is space.Stale.PAGES  # no longer executable
    assert made.fill(0x10000, bytes([0x80 | 1])) is space.Stale.PAGES
    assert made.fill(0x10000, bytes([0])) is space.Stale.PAGES
    assert made.fill(0x10000, bytes([0x80 | 7])) is space.Stale.NOTHING
    made.close()


def test_large_pages_come_where_much_is_mapped_at_once_and_change_as_a_whole() -> None:
    made = space.Space(1 << 20, large=True)
    rw, ro = bytes([0x83]), bytes([0x81])
    made.fill(HUGE, rw * 512)
    assert made.blocks[1] & 0x80 == 0  # not enough at once
    assert made.fill(2 * HUGE - PAGE, rw * 1540) is space.Stale.NOTHING
    large = [number for number in range(2048) if made.blocks[number] & 0x80]
    assert large == [2, 3, 4]
    for number in large:
        assert made.blocks[number] & 0x7FFF_FFE0_0000 == space.ARENA + number * HUGE
        assert made.blocks[number] & 7 == 7
        assert made.blocks[number] >> 63 == 1
    last = 5 * HUGE // PAGE
    assert [bool(row & 2) for row in made.entries[last : last + 4]] == [True, True, True, False]
    assert made.fill(2 * HUGE, ro * 512) is space.Stale.PAGES
    assert made.blocks[2] & 0x87 == 0x85  # as a whole: still large
    assert made.fill(3 * HUGE, bytes(512)) is space.Stale.PAGES
    assert made.blocks[3] == 0
    assert made.fill(3 * HUGE, rw * 512) is space.Stale.NOTHING
    assert made.blocks[3] & 0x87 == 0x87
    made.close()


def test_a_large_page_of_which_a_part_changes_becomes_a_table() -> None:
    made = space.Space(1 << 20, large=True)
    rw, ro = bytes([0x83]), bytes([0x81])
    made.fill(2 * HUGE, rw * 4 * 512)
    made.fill(3 * HUGE, bytes(512))
    at = 2 * HUGE // PAGE
    assert made.fill(2 * HUGE + 7 * PAGE, ro * 3) is space.Stale.TABLES
    assert not made.blocks[2] & 0x80
    assert [index for index in range(512) if not made.entries[at + index] & 2] == [7, 8, 9]
    assert all(row & 5 == 5 and row >> 63 for row in made.entries[at : at + 512])
    assert [row & 0x7FFF_FFFF_F000 for row in made.entries[at : at + 512]] == [
        space.ARENA + 2 * HUGE + index * PAGE for index in range(512)
    ]
    # KVM forgets everything now, so that what has gone needs no care any more.
    assert made.blocks[3]
    assert not any(made.entries[at + 512 : at + 1024])
    assert made.fill(3 * HUGE, ro) is space.Stale.NOTHING
    # A program that does this often has no large pages in the end, and KVM nothing more to forget.
    found = []
    for _ in range(40):
        made.fill(16 * HUGE, rw * 2 * 512)
        found.append(made.fill(16 * HUGE + PAGE, ro))
        made.fill(16 * HUGE, bytes(2 * 512))
    assert 2 <= found.count(space.Stale.TABLES) < 10
    assert found[-1] is space.Stale.PAGES
    assert not any(entry & 0x80 for entry in made.blocks)
    made.close()


def _accesses(engine: KvmEngine, memory: GuestMemory, cpu: object) -> Callable[[str, int], str]:
    """What comes of a load or a store of a byte: the cause of a fault, or "syscall"."""
    places = {"load": 0x10000, "store": 0x10100}
    memory.poke(places["load"], b"\x8a\x07\x0f\x05")  # mov al, [rdi]; syscall
    memory.poke(places["store"], b"\x88\x07\x0f\x05")  # mov [rdi], al; syscall

    def access(kind: str, address: int) -> str:
        cpu["rdi"], cpu["rax"] = address, 0x5A  # type: ignore[index]
        cpu.pc = places[kind]  # type: ignore[attr-defined]
        found = engine.run(cpu, memory, 1)  # type: ignore[arg-type]
        return found.cause.value if isinstance(found, Trap) else "syscall"

    return access


@pytest.mark.kvm
@pytest.mark.parametrize("asked", [False, True], ids=["small pages of the host", "large pages of the host"])
def test_parts_of_large_pages_change_as_small_pages_do(kvm: Kvm, asked: bool, tmp_path: Path) -> None:
    engine, memory, cpu = _machine("syscall")
    access = _accesses(engine, memory, cpu)
    at, size = 64 << 20, 16 << 20
    with memory:
        memory.map(at, size, Prot.RW)
        if asked:
            memory.prefer_huge_pages(at, size)
        # Pages that the host has KVM fills in together, eight at once.
        for block in range(at, at + size, HUGE):
            memory.view[block : block + 32 * PAGE] = bytes(32 * PAGE)
            assert access("store", block) == "syscall"
        # Two neighbours: the fault of one must not let the other in with what the large page allowed.
        assert memory.protect(at + 11 * PAGE, 2 * PAGE, Prot.READ)
        assert access("load", at + 11 * PAGE) == "syscall"
        assert access("store", at + 12 * PAGE) == "store"
        assert access("store", at + 11 * PAGE) == "store"
        assert access("store", at + 13 * PAGE) == "syscall"
        memory.unmap(at + 2 * HUGE + 17 * PAGE, PAGE)
        assert access("load", at + 2 * HUGE + 16 * PAGE) == "syscall"
        assert access("load", at + 2 * HUGE + 17 * PAGE) == "load"
        assert memory.protect(at + 3 * HUGE, PAGE, Prot.NONE)
        assert access("load", at + 3 * HUGE) == "load"
        assert access("load", at + 3 * HUGE + PAGE) == "syscall"
        # A file over a part of one.
        (tmp_path / "file").write_bytes(b"file".ljust(PAGE, b"."))
        with (tmp_path / "file").open("rb") as file:
            memory.map_file(at + 4 * HUGE + PAGE, PAGE, Prot.READ, file.fileno(), 0, name="file")
        assert access("load", at + 4 * HUGE + PAGE) == "syscall"
        assert cpu["rax"] & 0xFF == ord("f")  # type: ignore[index]
        assert access("store", at + 4 * HUGE + PAGE) == "store"
        assert access("store", at + 4 * HUGE) == "syscall"
        # A whole one, there and back.
        assert memory.protect(at + 6 * HUGE, HUGE, Prot.READ)
        assert access("store", at + 6 * HUGE + PAGE) == "store"
        assert memory.protect(at + 6 * HUGE, HUGE, Prot.RW)
        assert access("store", at + 6 * HUGE + PAGE) == "syscall"
        memory.unmap(at + 6 * HUGE, HUGE)
        assert access("load", at + 6 * HUGE) == "load"
        # What takes its place has pages of its own.
        memory.map(at + 6 * HUGE, PAGE, Prot.RW)
        assert access("store", at + 6 * HUGE) == "syscall"
        assert access("load", at + 6 * HUGE + PAGE) == "load"
        engine.close()


@pytest.mark.kvm
def test_kvm_forgets_its_tables_when_a_large_page_becomes_a_table(
    kvm: Kvm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which it does whenever a memory slot goes. Some notice the new table themselves, so that only the call shows it."""
    engine, memory, _cpu = _machine("syscall")
    forgotten: list[tuple[int, int]] = []
    unmap, at = engine._vm.unmap, 64 << 20

    def seen(guest: int) -> None:
        # The table is there already: what KVM reads afterwards is new.
        forgotten.append((guest, engine._space.blocks[at // HUGE] & 0x80))
        unmap(guest)

    monkeypatch.setattr(engine._vm, "unmap", seen)
    with memory:
        memory.map(at, 8 * HUGE, Prot.RW)
        memory.protect(at, 2 * HUGE, Prot.READ)
        memory.unmap(at + 2 * HUGE, HUGE)
        assert not forgotten
        memory.protect(at, PAGE, Prot.NONE)
        assert forgotten == [(engine_module._NOWHERE, 0)]
        memory.protect(at + PAGE, PAGE, Prot.NONE)
        assert len(forgotten) == 1
        memory.map(at + 2 * HUGE, PAGE, Prot.RW)
        assert len(forgotten) == 1  # it was nothing when KVM forgot
        memory.protect(at + 3 * HUGE, PAGE, Prot.READ)
        assert len(forgotten) == 2
        engine.close()


@pytest.mark.kvm
def test_memory_that_is_touched_for_the_first_time_costs_few_faults(
    kvm: Kvm, statistics: Callable[[int], dict[str, int]]
) -> None:
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("the host has no transparent large pages")
    at, size, touches = 64 << 20, 32 << 20, 8192
    engine, memory, cpu = _machine(
        f"mov edi, {at}; mov ecx, {touches}; again: mov [rdi], al; add rdi, 4096; dec ecx; jnz again; syscall"
    )
    with memory:
        memory.map(at, size, Prot.RW)
        memory.prefer_huge_pages(at, size)
        assert type(engine.run(cpu, memory, 1)).__name__ == "Syscall"  # type: ignore[arg-type]
        found = statistics(engine.first.vcpu._fd)  # type: ignore[union-attr]
        if "pf_taken" not in found:
            pytest.skip("this KVM does not say")
        # Of sixteen, the host may have had none left for some.
        assert found["pf_taken"] < touches // 16
        engine.close()


def test_the_signal_frame_is_linuxs() -> None:
    """The kernel's own words in it are what unwinders and handlers look for (arch/x86/include/uapi/asm/sigcontext.h)."""
    from vm_core.linux.abi import SigInfo

    class Vectors:
        def __init__(self) -> None:
            self.area = bytes(512) + (7).to_bytes(8, "little") + bytes(56) + bytes(range(256))
            self.loaded, self.flags = b"", 1 << 8

        def save(self) -> bytes:
            return self.area

        def load(self, area: bytes) -> None:
            self.loaded = area

        def copy(self) -> Vectors:
            return self

        def kick(self) -> None:
            pass

    cpu = isa.get("x86_64").cpu()
    abi = abi_of("x86_64", cpu.layout)
    cpu.outside = vectors = Vectors()
    with GuestMemory() as memory:
        memory.map(0x20000, 4 * PAGE, Prot.RW)
        abi.push_frame(
            cpu, memory, 0x24000, SigInfo(11, 1, 0x1234, trap=14, error=6), 0x5000, 0, (0, 0, 0), 0x6000
        )
        context, frame = cpu["rdx"], cpu["rsp"]
        assert memory.load(context, 8) == 7
        saved = memory.load(context + 40 + 23 * 8, 8)
        assert saved % 64 == 0
        assert memory.read(saved + 464, 4) == b"SXPF"
        assert memory.load(saved + 468, 4) == len(vectors.area) + 4
        assert memory.load(saved + 472, 8) == 7
        assert memory.read(saved + len(vectors.area), 4) == b"EXPF"
        # A handler begins without single steps, and with the floating point of a new program: this one's was not.
        assert (vectors.flags, vectors.loaded[:2]) == (0, b"\x7f\x03")
        assert memory.load(context + 40 + 17 * 8, 8) & 1 << 8
        assert memory.load(context + 40 + 20 * 8, 8) == 14
        assert memory.load(context + 40 + 19 * 8, 8) == 6
        assert memory.load(context + 40 + 22 * 8, 8) == 0x1234
        cpu["rsp"] = frame + 8
        abi.pop_frame(cpu, memory)
        assert vectors.flags == 1 << 8
        assert vectors.loaded[512:] == vectors.area[512:]
        # A handler that spoils the words gets the legacy part back alone.
        memory.store(saved + 464, 4, 0)
        cpu["rsp"] = frame + 8
        abi.pop_frame(cpu, memory)
        assert len(vectors.loaded) == 576
        assert vectors.loaded[512] == 3


@pytest.mark.kvm
def test_memory_goes_from_all_threads_at_once(kvm: Kvm) -> None:
    """A thread that only reads a page faults as soon as another has taken it away."""
    engine, memory, cpu = _machine("again: mov rax, [rsi]; jmp again")
    with memory:
        memory.map(0x50000, PAGE, Prot.RW)
        cpu["rsi"] = 0x50000  # type: ignore[index]
        for take in (lambda: memory.protect(0x50000, PAGE, Prot.NONE), lambda: memory.unmap(0x50000, PAGE)):
            found: list[object] = []
            runner = threading.Thread(target=lambda found=found: found.append(engine.run(cpu, memory, 1)))  # type: ignore[misc, arg-type]
            runner.start()
            while not engine._seats:
                pass
            threading.Event().wait(0.05)
            assert not found
            take()
            runner.join(10)
            assert found
            assert (found[0].cause.value, found[0].address) == ("load", 0x50000)  # type: ignore[attr-defined]
            memory.protect(0x50000, PAGE, Prot.RW)
        engine.close()


@pytest.fixture(params=["static", "dynamic"])
def service(programs: Path, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """An initialised guest, before its main."""
    with Guest([str(programs / f"service-{request.param}")], sysroot="/", stdio=(None, None, None)) as guest:
        yield guest


@pytest.mark.kvm
def test_functions_are_called_and_return(service: Guest) -> None:
    assert service.call("add", 1, 2, 3, 4, 5, 6) == 91
    assert service.call("add", -91, 0, 0, 0, 0, 0) == (1 << 64) - 91
    stack = service.process.main.cpu["rsp"]
    assert [service.call("count") for _ in range(3)] == [1, 2, 3]
    assert service.process.main.cpu["rsp"] == stack
    data = os.urandom(5000)
    assert service.call("total", data, len(data)) == sum(data)
    assert service.read(service.address("counter"), 4) == b"\3\0\0\0"


@pytest.mark.kvm
def test_arguments_that_there_is_no_room_for(service: Guest, programs: Path) -> None:
    data = bytes(range(256)) * (16 << 12)
    with pytest.raises(
        UsageError, match=r"arguments of 16,777,\d+ bytes: .* has room for 8,\d+,\d+"
    ) as caught:
        service.call("total", data, len(data))
    assert service.call("total", data[: 8 << 20][: -(128 << 10)], 256) == sum(range(256))
    assert service.call("count") == 1
    found = re.search(r"stack=(\d+)", caught.value.hint)
    assert found is not None
    with Guest(
        [str(programs / "service-static")], stdio=(None, None, None), stack=int(found.group(1))
    ) as guest:
        assert guest.call("total", data, len(data)) == sum(data)


@pytest.mark.kvm
def test_a_reset_undoes_memory_mappings_and_registers(service: Guest) -> None:
    service.call("count")
    with pytest.raises(UsageError, match="no snapshot"):
        service.reset()
    service.snapshot()
    before = (
        service.memory.view[: 1 << 20].tobytes(),
        bytes(service.memory.table),
        list(service.memory.regions()),
    )
    for _ in range(3):
        assert service.call("count") == 2
        assert service.call("grow", 100) == 1
        assert service.call("grow", 10 << 20) == 1  # its own mapping
        assert service.call("identify") == 1_000_000 + len(service.process.comm) + 1
        assert service.call("scaled", 3) == 60
        assert service.call("mode", 1) == 0
        service.write(service.address("scale"), bytes(8))
        assert service.call("count") == 23
        service.reset()
    assert before == (
        service.memory.view[: 1 << 20].tobytes(),
        bytes(service.memory.table),
        list(service.memory.regions()),
    )
    # Only what a call writes is copied, once it is known.
    assert 0 < service.hot_pages < 60
    service.snapshot()
    service.call("count")
    service.reset()
    assert service.hot_pages <= 3


@pytest.mark.kvm
def test_a_call_that_does_not_return_leaves_a_guest_that_can_be_reset(service: Guest) -> None:
    service.snapshot()
    with pytest.raises(GuestFault) as caught:
        service.call("fault")
    assert caught.value.trap.address == 8
    service.reset()
    with pytest.raises(GuestTimeout, match=r"0\.1 s"):
        service.call("forever", timeout=0.1)
    service.reset()
    assert service.call("count", timeout=10.0) == 1
    with pytest.raises(GuestEnded, match="status 3"):
        service.call("leave")
    with pytest.raises(UsageError, match="ended"):
        service.reset()


@pytest.mark.kvm
def test_a_guest_leaves_nothing_behind(programs: Path) -> None:
    def use(*, end: bool) -> None:
        with Guest([str(programs / "service-static")], stdio=(None, None, None)) as guest:
            guest.snapshot()
            guest.call("count")
            if end:
                with pytest.raises(GuestEnded):
                    guest.call("leave")
            else:
                guest.reset()

    def mappings() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    use(end=False)
    use(end=True)
    descriptors, before = len(os.listdir("/proc/self/fd")), mappings()
    for number in range(12):
        use(end=number % 2 == 0)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert mappings() <= before + 6


@pytest.mark.kvm
def test_the_same_page_is_reset_each_time_it_is_written(service: Guest) -> None:
    service.snapshot()
    for _ in range(200):
        assert service.call("count") == 1
        service.reset()


@pytest.mark.kvm
def test_wrong_use_of_a_guest_is_told(programs: Path, service: Guest) -> None:
    with pytest.raises(UsageError, match="no function 'nothing'"):
        service.call("nothing")
    with pytest.raises(UsageError, match="7 arguments"):
        service.call("add", *range(7))
    with pytest.raises(UsageError, match="no function 'nowhere'"):
        Guest([str(programs / "service-static")], ready="nowhere")
    with pytest.raises(GuestEnded):
        Guest([str(programs / "service-static")], ready="forever", stdio=(None, None, None))


@pytest.mark.kvm
def test_memory_slots_follow_what_is_mapped(kvm: Kvm) -> None:
    """KVM keeps ten bytes for each page of a slot, whether it is used or not."""
    engine, memory, cpu = _machine("mov rax, [rsi]; mov [rsi], rax; syscall")
    with memory:

        def touches(address: int) -> None:
            cpu["rsi"], cpu.pc = address, 0x10000  # type: ignore[index, attr-defined]
            assert type(engine.run(cpu, memory, 1)).__name__ == "Syscall"  # type: ignore[arg-type]

        assert len(engine._slots) == 1
        memory.map(0x4000_0000, PAGE, Prot.RW)
        touches(0x4000_0000)
        memory.map(0x4000_1000, 16 * PAGE, Prot.RW)
        touches(0x4000_8000)
        assert len(engine._slots) == 2
        memory.map(0x8000_0000, 1 << 30, Prot.NONE)
        assert len(engine._slots) == 2
        memory.protect(0x8800_0000, PAGE, Prot.RW)
        touches(0x8800_0000)
        assert len(engine._slots) == 3
        memory.protect(0x8000_0000, 1 << 30, Prot.RW)  # around the slot that is there
        touches(0x8000_0000)
        touches(0xBFFF_F000)
        assert len(engine._slots) == 5
        engine.close()


@pytest.mark.kvm
def test_a_closed_engine_is_forgotten(kvm: Kvm) -> None:
    """What waits for a thread's end does not hold the engine, and with it all of the guest."""
    engine, memory, cpu = _machine("syscall")
    engine.run(cpu, memory, 1)  # type: ignore[arg-type]
    engine.close()
    memory.close()
    gone = weakref.ref(engine)
    del engine, memory, cpu
    gc.collect()
    assert gone() is None
