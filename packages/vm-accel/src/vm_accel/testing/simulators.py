"""Libraries with the C interface of a platform that is not there, built by the host's C compiler from sources beside this file.

``whpx`` runs guests on /dev/kvm; ``hvf`` on vm_core's executor of AArch64, which it calls back. The environment variables
VM_WHPX_LIBRARY and VM_HVF_LIBRARY make the back ends use them.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

__all__ = ["build", "connect", "lacking"]

_SOURCES: Final = Path(__file__).parent
_FLAGS: Final = ("-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread")
_EXECUTOR: Final = """
typedef struct Cpu { uint64_t x[31], sp, pc, cpsr; uint8_t v[32][16]; } Cpu;
void hv_fake_set_executor(int (*)(uint64_t, Cpu *));
int hv_fake_memory(uint64_t vcpu, uint64_t address, uint32_t size, int is_write, uint64_t *value);
"""
_connected: Final[dict[str, Any]] = {}


def lacking(name: str) -> str:
    """Why a simulator cannot be used here; empty if it can."""
    if not shutil.which("cc"):
        return "needs a C compiler (cc) for the simulator"
    if name == "whpx":
        try:
            with open("/dev/kvm", "r+b", buffering=0):
                pass
        except OSError as error:
            return f"needs /dev/kvm, on which the simulator of WHPX runs guests ({error.strerror})"
    return ""


def build(name: str, directory: Path) -> Path:
    """Compile a simulator, ``whpx`` or ``hvf``, into ``directory``."""
    library = directory / f"libfake{name}.so"
    subprocess.run(["cc", *_FLAGS, "-o", str(library), str(_SOURCES / f"{name}.c")], check=True)
    if name == "hvf":
        connect(library)
    return library


class _Stopped(Exception):
    """An access that the simulator has turned into an exit."""


class _Memory:
    """vm_core's memory, in the simulator's terms."""

    def __init__(self, lib: Any, ffi: Any) -> None:
        self.lib, self.word, self.vcpu = lib, ffi.new("uint64_t[2]"), 0
        self._bytes = ffi.buffer(self.word)

    def check(self, address: int, size: int, access: object) -> None:
        """Found out by the access itself."""

    def load(self, address: int, size: int) -> int:
        value = 0
        for at in range(0, size, 8):
            self.word[0] = 0
            # SAFETY: the word has 8 bytes, and `size` of a piece is at most 8.
            if self.lib.hv_fake_memory(self.vcpu, address + at, min(size - at, 8), 0, self.word):
                raise _Stopped
            value |= int(self.word[0]) << 8 * at
        return value

    def store(self, address: int, size: int, value: int) -> None:
        for at in range(0, size, 8):
            self.word[0] = value >> 8 * at & (1 << 64) - 1
            # SAFETY: as above.
            if self.lib.hv_fake_memory(self.vcpu, address + at, min(size - at, 8), 1, self.word):
                raise _Stopped


def connect(library: Path) -> None:
    """Give a simulator of HVF its executor, for as long as this process lives."""
    import cffi

    from vm_core.engine import Trap
    from vm_core.errors import DecodeError
    from vm_core.execute import execute
    from vm_core.isa import get
    from vm_core.state import CpuState

    ffi = cffi.FFI()
    ffi.cdef(_EXECUTOR)
    lib = ffi.dlopen(str(library))
    isa = get("aarch64")
    monitors: dict[int, tuple[int, int]] = {}
    """Of each vCPU: what its last load-exclusive marked."""

    def step(vcpu: int, cpu: Any) -> int:
        memory = _Memory(lib, ffi)
        memory.vcpu = vcpu
        state = CpuState(isa.layout)
        for i in range(31):
            state.set("x", i, int(cpu.x[i]))
        state["sp"] = int(cpu.sp)
        vectors = bytes(ffi.buffer(cpu.v))
        for i in range(32):
            state.set("v", i, int.from_bytes(vectors[16 * i : 16 * i + 16], "little"))
        for at, name in enumerate("vczn", 28):
            state[name] = int(cpu.cpsr) >> at & 1
        state.pc = int(cpu.pc)
        for name, value in zip(("reservation", "reserved_value"), monitors.get(vcpu, ()), strict=False):
            state.header(name, value)
        try:
            code = memory.load(state.pc, 4).to_bytes(4, "little")
            insn = isa.decode(code, state.pc)
            # Only the accesses of a load's or store's text are used of the memory.
            result = execute(isa, insn, state, memory)  # type: ignore[arg-type]
        except _Stopped:
            return 1
        except DecodeError:
            return 2
        if isinstance(result, Trap):
            return 2
        for i in range(31):
            cpu.x[i] = state.get("x", i)
        cpu.sp, cpu.pc = state["sp"], state.pc
        monitors[vcpu] = state.header("reservation"), state.header("reserved_value")
        for i in range(32):
            ffi.buffer(cpu.v)[16 * i : 16 * i + 16] = state.get("v", i).to_bytes(16, "little")
        flags = sum(state[name] << at for at, name in enumerate("vczn", 28))
        cpu.cpsr = int(cpu.cpsr) & ~(0xF << 28) | flags
        return 0

    # A Python error becomes -1, an error of hv_vcpu_run, and is printed by cffi.
    callback = ffi.callback("int(uint64_t, Cpu *)", step, error=-1)
    lib.hv_fake_set_executor(callback)
    _connected[str(library)] = (ffi, lib, callback)
