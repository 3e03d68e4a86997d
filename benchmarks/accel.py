"""KVM through vm-accel beside a C program that makes the same ioctls, in one run: python benchmarks/accel.py

Exit round trips are measured alternately, in many short rounds, since both vary more between minutes than they differ. The
guests are the same bytes, and start from the same registers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from vm_accel.exits import PortIo
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.kvm.kernel import ffi
from vm_accel.kvm.rates import measure
from vm_accel.memory import HostMemory
from vm_accel.testing.conformance import guest
from vm_accel.testing.snippets import CODE

MODES = ("real", "long", "user")
PAGES = 64
"""As in the C program."""
LOOP = "again: out 0x10, al; jmp again"

C = r"""
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static void need(int ok, const char *what) { if (!ok) { perror(what); exit(1); } }
static void load(const char *path, void *where, size_t size) {
    int fd = open(path, O_RDONLY); need(fd >= 0 && read(fd, where, size) == (ssize_t)size, path); close(fd);
}
static struct kvm_cpuid2 *cpuid;
static int kvm, run_size;

struct guest { int vm, vcpu; struct kvm_run *run; };
static struct guest create(void *memory, size_t size) {
    struct guest g;
    g.vm = ioctl(kvm, KVM_CREATE_VM, 0); need(g.vm >= 0, "vm");
    struct kvm_userspace_memory_region r = {0, 0, 0, size, (unsigned long)memory};
    need(!ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &r), "memory");
    g.vcpu = ioctl(g.vm, KVM_CREATE_VCPU, 0); need(g.vcpu >= 0, "vcpu");
    g.run = mmap(0, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, g.vcpu, 0); need(g.run != MAP_FAILED, "mmap");
    need(!ioctl(g.vcpu, KVM_SET_CPUID2, cpuid), "cpuid");
    return g;
}
/* Pages of code that run after each exit, one jump each: what Python has, for its interpreter, and a small C program has not. */
enum { SMALL = 1 << 16, PAGES = 64, STEP = 4096 + 64 };
static unsigned char *pages(void) {
    unsigned char *code = mmap(0, PAGES * STEP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(code != MAP_FAILED, "code");
    for (int i = 0; i < PAGES; i++) {
        unsigned char *here = code + i * STEP; int away = STEP - 5;
        here[0] = i == PAGES - 1 ? 0xc3 : 0xe9;
        memcpy(here + 1, &away, 4);
    }
    need(!mprotect(code, PAGES * STEP, PROT_READ | PROT_EXEC), "mprotect");
    return code;
}
static void destroy(struct guest g) { munmap(g.run, run_size); close(g.vcpu); close(g.vm); }

int main(int argc, char **argv) {
    size_t size = 2 << 20;
    kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC); need(kvm >= 0, "open");
    run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    cpuid = calloc(1, sizeof *cpuid + 256 * sizeof(struct kvm_cpuid_entry2)); cpuid->nent = 256;
    need(!ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), "supported");
    void *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_regs regs; struct kvm_sregs sregs;
    load(argv[1], memory, size); load(argv[2], &regs, sizeof regs); load(argv[3], &sregs, sizeof sregs);
    struct guest g = create(memory, size);
    need(!ioctl(g.vcpu, KVM_SET_SREGS, &sregs), "sregs"); need(!ioctl(g.vcpu, KVM_SET_REGS, &regs), "regs");
    void (*code)(void) = (void (*)(void))pages();
    char line[64], **memories = 0;
    while (fgets(line, sizeof line, stdin)) {
        int n = atoi(line + 1); double t;
        if (line[0] == 'e' || line[0] == 'p') {
            unsigned long seen = 0;
            t = now();
            for (int i = 0; i < n; i++) {
                need(!ioctl(g.vcpu, KVM_RUN, 0) && g.run->exit_reason == KVM_EXIT_IO, "run");
                seen += *((unsigned char *)g.run + g.run->io.data_offset) + g.run->io.port;
                if (line[0] == 'p') code();
            }
            t = now() - t;
            need(seen >= 16ul * n, "port");
        } else if (line[0] == 'a') {
            memories = calloc(n, sizeof *memories); t = 0;
            for (int i = 0; i < n; i++) {
                memories[i] = mmap(0, SMALL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                need(memories[i] != MAP_FAILED, "memories"); memcpy(memories[i], memory, SMALL);
            }
        } else if (line[0] == 'm') {
            t = now();
            for (int i = 0; i < n; i++) {
                struct guest o = create(memories[i], SMALL);
                need(!ioctl(o.vcpu, KVM_SET_SREGS, &sregs), "sregs"); need(!ioctl(o.vcpu, KVM_SET_REGS, &regs), "regs");
                for (int k = 0; k < 2; k++)
                    need(!ioctl(o.vcpu, KVM_RUN, 0) && o.run->exit_reason == KVM_EXIT_IO
                         && !*((unsigned char *)o.run + o.run->io.data_offset), "run");
            }
            t = now() - t;
        } else {
            t = 0;
            for (int i = 0; i < n; i++) {
                double start = now(); struct guest o = create(memory, size); t += now() - start; destroy(o);
            }
        }
        printf("%.9f\n", t / n); fflush(stdout);
    }
    return 0;
}
"""


class Native:
    """The C program, which waits for what to measure."""

    def __init__(self, program: Path, files: list[Path]) -> None:
        self._process = subprocess.Popen(
            [program, *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def seconds(self, what: str, count: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}{count}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class Counter:
    """A device that does as little as one can."""

    def __init__(self, vcpu: Any, limit: int) -> None:
        self.vcpu, self.left = vcpu, limit

    def port_out(self, _port: int, _size: int, _value: int) -> None:
        self.left -= 1
        if not self.left:
            self.vcpu.kick()


def _apart(these: list[float], those: list[float]) -> float:
    """Microseconds between what was measured in the same rounds."""
    return statistics.median(a - b for a, b in zip(these, those, strict=True)) * 1e6


def exits(kvm: Kvm, program: Path, where: Path, rounds: int, count: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for mode in MODES:
        with guest(kvm, LOOP, mode) as made:
            vcpu: Any = made.vcpu
            files = [where / f"{mode}.{kind}" for kind in ("memory", "regs", "sregs")]
            files[0].write_bytes(made.memory.read(0, made.memory.size))
            vcpu["rax"]
            files[1].write_bytes(bytes(vcpu._general))
            files[2].write_bytes(vcpu._structures.raw("sregs"))
            native = Native(program, files)
            run, rows = vcpu.run, {"c": [], "pages": [], "exits": [], "bus": []}
            for _ in range(rounds):
                rows["pages"].append(native.seconds("p", count))
                rows["c"].append(native.seconds("e", count))
                time.sleep(0.004)  # a fresh slice of the processor's time, as the C program has had
                begin = time.perf_counter()
                for _ in range(count):
                    run()
                rows["exits"].append((time.perf_counter() - begin) / count)
                device = Counter(vcpu, count)
                time.sleep(0.004)
                begin = time.perf_counter()
                run(device)
                rows["bus"].append((time.perf_counter() - begin) / count)
            native.close()
            assert run() == PortIo(0x10, 1, True, 1, b"\0")
            out[mode] = {name: statistics.median(values) * 1e6 for name, values in rows.items()}
            # On a machine with other work the fast rounds are those that nothing interrupted.
            fast = {name: statistics.quantiles(values, n=10)[0] * 1e6 for name, values in rows.items()}
            for name in ("exits", "bus"):
                # The difference of what was measured in the same round: the machine's mood is in both.
                out[mode][f"{name} - c"] = _apart(rows[name], rows["c"])
                out[mode][f"{name} - c, fast"] = fast[name] - fast["c"]
            # Where KVM switches address spaces, the processor finds no page again that ran before, which Python's code pays.
            del out[mode]["pages"]
            out[mode]["a page of code"] = _apart(rows["pages"], rows["c"]) / PAGES
    return out


def creation(kvm: Kvm, program: Path, where: Path, rounds: int, count: int) -> dict[str, float]:
    native = Native(program, [where / f"real.{kind}" for kind in ("memory", "regs", "sregs")])
    rows: dict[str, list[float]] = {"c": [], "vm-accel": []}
    with HostMemory(2 << 20) as memory:
        for _ in range(rounds):
            rows["c"].append(native.seconds("c", count))
            total = 0.0
            for _ in range(count):
                begin = time.perf_counter()
                vm = kvm.create_vm()
                vm.map(0, memory)
                vm.create_vcpu()
                total += time.perf_counter() - begin
                vm.close()
            rows["vm-accel"].append(total / count)
    native.close()
    return {name: statistics.median(values) * 1e3 for name, values in rows.items()} | {
        f"{name}, best round": min(values) * 1e3 for name, values in rows.items()
    }


def kicks(kvm: Kvm, count: int) -> dict[str, float]:
    """From the call of kick in one thread to the return of run in another."""
    times = []
    with guest(kvm, "again: jmp again", "user") as made:
        returned = [0.0]
        go, done = threading.Semaphore(0), threading.Semaphore(0)

        def work() -> None:
            for _ in range(count):
                go.acquire()
                made.vcpu.run()
                returned[0] = time.perf_counter()
                done.release()

        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(count):
            go.release()
            time.sleep(0.002)
            begin = time.perf_counter()
            made.vcpu.kick()
            done.acquire()
            times.append((returned[0] - begin) * 1e3)
        thread.join()
    times.sort()
    return {"p50": times[count // 2], "p99": times[count * 99 // 100], "max": times[-1]}


def _resident(process: int | str = "self") -> int:
    with open(f"/proc/{process}/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _kernel() -> int:
    """What the whole system's kernel has taken for itself, in bytes; other processes move it too, but less than free memory."""
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    wanted = ("Slab", "VmallocUsed", "PageTables", "SecPageTables", "Percpu")
    return sum(int(rows[name].split()[0]) for name in wanted if name in rows) * 1024


def cycles(kvm: Kvm, count: int) -> dict[str, Any]:
    def census() -> tuple[int, int, int]:
        return (
            len(os.listdir("/proc/self/fd")),
            len(Path("/proc/self/maps").read_text().splitlines()),
            _resident(),
        )

    with HostMemory(1 << 16) as memory:
        memory.write(CODE, b"\xf4")

        def cycle() -> None:
            with kvm.create_vm() as vm:
                vm.map(0, memory)
                vcpu = vm.create_vcpu()
                vcpu.set_registers({"cs.base": 0, "cs.selector": 0, "rip": CODE, "rflags": 2})
                vcpu.run()

        for _ in range(200):
            cycle()
        before, begin = census(), time.perf_counter()
        for _ in range(count):
            cycle()
        took, after = time.perf_counter() - begin, census()
    return {
        "cycles": count,
        "ms each": took / count * 1e3,
        "descriptors more": after[0] - before[0],
        "mappings more": after[1] - before[1],
        "resident KiB more": (after[2] - before[2]) / 1024,
    }


def many(kvm: Kvm, program: Path, where: Path, count: int) -> dict[str, Any]:
    """``count`` VMs alive at once; each counts in its memory and says so through a port, twice. Then the same by the C program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count + 100
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    # inc word [0x2000]; out 0x10, al; jmp to the start
    size, code = 1 << 16, bytes.fromhex("ff060020e610ebf8")
    start = {"cs.base": 0, "cs.selector": 0, "rip": CODE, "rflags": 2}
    memories = [HostMemory(size) for _ in range(count)]
    for memory in memories:
        memory.write(0, bytes(size))  # now it is the guest's memory, and not counted below
        memory.write(CODE, code)
    files = [where / f"small.{kind}" for kind in ("memory", "regs", "sregs")]
    files[0].write_bytes(memories[0].read(0, size).ljust(2 << 20, b"\0"))
    with kvm.create_vm() as vm:
        first: Any = vm.create_vcpu()
        first.set_registers(start)
        files[1].write_bytes(bytes(first._general))
        files[2].write_bytes(first._structures.raw("sregs"))
    resident, kernel, begin = _resident(), _kernel(), time.perf_counter()
    vcpus = []
    for memory in memories:
        vm = kvm.create_vm()
        vm.map(0, memory)
        vcpu = vm.create_vcpu()
        vcpu.set_registers(start)
        vcpus.append((vm, vcpu))
    created = time.perf_counter() - begin
    begin = time.perf_counter()
    for _ in range(2):
        for _vm, vcpu in vcpus:
            assert vcpu.run() == PortIo(0x10, 1, True, 1, b"\0")
    ran = time.perf_counter() - begin
    more, kernel_more = _resident() - resident, _kernel() - kernel
    progress = sum(memory.read(0x2000, 2) == b"\2\0" for memory in memories)
    for vm, _vcpu in vcpus:
        vm.close()
    for memory in memories:
        memory.close()
    time.sleep(2)  # the kernel gives some of it back later
    native = Native(program, files)
    native.seconds("a", count)
    c, c_kernel = _resident(native.pid), _kernel()
    native.seconds("m", count)
    c, c_kernel = _resident(native.pid) - c, _kernel() - c_kernel
    native.close()
    return {
        "alive": count,
        "made progress": progress,
        "created a second": count / created,
        "process KiB each": more / count / 1024,
        "kernel KiB each": kernel_more / count / 1024,
        "in C, process KiB each": c / count / 1024,
        "in C, kernel KiB each": c_kernel / count / 1024,
        "more than C, KiB each": (more + kernel_more - c - c_kernel) / count / 1024,
        "us a run": ran / count / 2 * 1e6,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=100, help="short rounds, alternating with C")
    parser.add_argument("--exits", type=int, default=250, help="exits in a round")
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--vms", type=int, default=1000)
    parser.add_argument("--only", help="exits, creation, kicks, cycles, many or rates; with commas")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    wanted = set((given.only or "rates,exits,creation,kicks,cycles,many").split(","))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory, Kvm() as kvm:
        where = Path(directory)
        program = where / "native"
        if wanted & {"exits", "creation", "many"}:
            (where / "native.c").write_text(C)
            subprocess.run(["cc", "-O2", "-o", program, where / "native.c"], check=True)
        found["flavour"] = kvm.flavour
        if "rates" in wanted:
            found["rates"] = measure(kvm, seconds=0.2)._asdict()
        if wanted & {"exits", "creation"}:
            found["exit us"] = exits(
                kvm, program, where, given.rounds if "exits" in wanted else 1, given.exits
            )
        if "creation" in wanted:
            found["creation ms"] = creation(kvm, program, where, given.rounds, 20)
        if "kicks" in wanted:
            found["kick ms"] = kicks(kvm, 500)
        if "cycles" in wanted:
            found["cycles"] = cycles(kvm, given.cycles)
        if "many" in wanted:
            found["many"] = many(kvm, program, where, given.vms)
    if given.json:
        json.dump(found, sys.stdout, indent=1)
        print()
        return 0
    for name, rows in found.items():
        print(name if isinstance(rows, dict) else f"{name}: {rows}")
        for key, value in rows.items() if isinstance(rows, dict) else ():
            text = f"{value:,.2f}" if isinstance(value, float) else str(value)
            if isinstance(value, dict):
                text = ", ".join(f"{k} {v:.2f}" for k, v in value.items())
            print(f"  {key}: {text}")
    return 0


assert ffi.sizeof("struct kvm_regs") == 144
if __name__ == "__main__":
    raise SystemExit(main())
