"""What differs between the three Linux user ABIs: registers of a call, structure layouts, the signal frame.

Linux 6.x: arch/riscv/include/uapi/asm/{sigcontext,ucontext,hwprobe}.h, arch/arm64/include/uapi/asm/sigcontext.h,
arch/x86/include/uapi/asm/sigcontext.h, include/uapi/asm-generic/{stat,fcntl,signal}.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping

from vm_core.hints import ClassVar, Final, NamedTuple
from vm_core.memory import Access, GuestMemory
from vm_core.state import HEADER, CpuState, Outside, StateLayout

__all__ = ["MASK64", "SIGNAL_NAMES", "Abi", "SigInfo", "abi_of", "errno_name", "s32", "s64"]

MASK64: Final = (1 << 64) - 1
_BILLION: Final = 1_000_000_000

SIGNAL_NAMES: Final = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
    9: "SIGKILL", 10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM",
    16: "SIGSTKFLT", 17: "SIGCHLD", 18: "SIGCONT", 19: "SIGSTOP", 20: "SIGTSTP", 21: "SIGTTIN", 22: "SIGTTOU",
    23: "SIGURG", 24: "SIGXCPU", 25: "SIGXFSZ", 26: "SIGVTALRM", 27: "SIGPROF", 28: "SIGWINCH", 29: "SIGIO",
    30: "SIGPWR", 31: "SIGSYS",
}  # fmt: skip


def s32(value: int) -> int:
    """The low 32 bits as a C int."""
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value


def s64(value: int) -> int:
    """An unsigned 64-bit register as a C long."""
    return value - (1 << 64) if value >> 63 else value


def errno_name(number: int) -> str:
    """``ENOENT`` for 2; the number for one without a name."""
    return _SPELLINGS.get(number) or errno.errorcode.get(number, str(number))


_SPELLINGS: Final = {11: "EAGAIN", 35: "EDEADLK", 95: "EOPNOTSUPP"}
"""Where a number has two names: the one that people use."""


RESTART: Final = -512
"""ERESTARTSYS: a call was interrupted by a signal; it is restarted if the handler says SA_RESTART."""


class SigInfo(NamedTuple):
    """siginfo_t. ``code`` is si_code; the rest depends on it. ``address`` is a guest address. ``trap`` and ``error`` are for a
    frame that has room for them (x86-64): the exception's vector and its error code."""

    number: int
    code: int = 0
    address: int = 0
    pid: int = 0
    uid: int = 0
    value: int = 0
    trap: int = 0
    error: int = 0

    def pack(self) -> bytes:
        """The 128 bytes the guest sees (the same on every 64-bit ABI)."""
        head = struct.pack("<iiii", self.number, 0, self.code, 0)
        if self.number in (4, 5, 7, 8, 11) and self.code > 0 and self.code != 0x80:
            body = struct.pack("<Q", self.address)
        else:
            body = struct.pack("<IIQ", self.pid, self.uid, self.value & MASK64)
        return (head + body).ljust(128, b"\0")


_STAT_GENERIC: Final = struct.Struct("<QQIIIIQQqiiqqQqQqQII")
_STAT_X86: Final = struct.Struct("<QQQIIIIQqqqqQqQqQqqq")


class Abi:
    """One ISA's Linux user ABI, bound to a register layout.

    Word indices (``*_word``) index ``CpuState.words``, so that a system call reads its registers without a lookup.
    """

    illegal_code: ClassVar[int] = 1
    """si_code of an illegal instruction: ILL_ILLOPC."""
    isa: ClassVar[str]
    machine: ClassVar[str]
    column: ClassVar[str] = "generic"
    number_register: ClassVar[tuple[str, ...]]
    argument_registers: ClassVar[tuple[tuple[str, ...], ...]]
    result_register: ClassVar[tuple[str, ...]]
    stack_register: ClassVar[tuple[str, ...]]
    thread_register: ClassVar[tuple[str, ...]]
    syscall_bytes: ClassVar[int] = 4
    hwcap: ClassVar[int] = 0
    platform: ClassVar[str | None] = None
    has_restorer: ClassVar[bool] = True
    clone_tls_before_ctid: ClassVar[bool] = True
    red_zone: ClassVar[int] = 0
    min_signal_stack: ClassVar[int] = 2048
    signal_frame: ClassVar[int] = 0
    """Bytes of a signal frame, of which programs are told; 0 if min_signal_stack is all that they need to know."""
    plain_frame: ClassVar[bool] = False
    """Whether the signal frame is Riscv64's: registers in it as they lie in the vCPU."""
    FLAGS: ClassVar[Mapping[str, int]] = {}
    """The bit of each one-bit register in the machine's flags word."""
    O_DIRECTORY: ClassVar[int] = 0o200000
    O_NOFOLLOW: ClassVar[int] = 0o400000
    O_DIRECT: ClassVar[int] = 0o40000
    O_LARGEFILE: ClassVar[int] = 0o100000

    def __init__(self, layout: StateLayout) -> None:
        self.layout = layout
        self.number_word = self.word(*self.number_register)
        self.argument_words = tuple(self.word(*names) for names in self.argument_registers)
        self.result_word = self.word(*self.result_register)
        self.stack_word = self.word(*self.stack_register)
        self.thread_word = self.word(*self.thread_register) if self.knows(*self.thread_register) else -1
        host = {
            self.O_DIRECTORY: os.O_DIRECTORY,
            self.O_NOFOLLOW: os.O_NOFOLLOW,
            0o100: os.O_CREAT,
            0o200: os.O_EXCL,
            0o400: os.O_NOCTTY,
            0o1000: os.O_TRUNC,
            0o2000: os.O_APPEND,
            0o4000: os.O_NONBLOCK,
            0o10000: os.O_DSYNC,
            0o4000000: os.O_SYNC,
            0o2000000: os.O_CLOEXEC,
            0o10000000: getattr(os, "O_PATH", 0),
            0o20000000: getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY,
        }
        self._open_flags = tuple(host.items())
        self._known_flags: dict[int, int] = {}

    def word(self, *names: str) -> int:
        """Index in ``CpuState.words`` of the first of these registers that the layout has."""
        for name in names:
            if name in self.layout.names:
                return self.layout.offset(*self.layout.names[name]) // 8
        raise KeyError(names[0])

    def knows(self, *names: str) -> bool:
        return any(name in self.layout.names for name in names)

    def host_open_flags(self, flags: int) -> int:
        """Guest O_* to the host's; O_DIRECT and unknown bits are dropped."""
        out = self._known_flags.get(flags)
        if out is None:
            out = flags & 3
            for guest, host in self._open_flags:
                if flags & guest:
                    out |= host
            if len(self._known_flags) < 64:
                self._known_flags[flags] = out
        return out

    def stat(self, info: os.stat_result, mode: int | None = None, size: int | None = None) -> bytes:
        """``struct stat``; ``mode`` and ``size`` override what the host says of an emulated file."""
        # PERF: the members of the tuple come faster than attributes.
        host_mode, ino, dev, links, uid, gid, host_size, *seconds = info
        accessed, modified, changed = map(int, seconds)
        times = (
            accessed, info.st_atime_ns - accessed * _BILLION,
            modified, info.st_mtime_ns - modified * _BILLION,
            changed, info.st_ctime_ns - changed * _BILLION,
        )  # fmt: skip
        mode = host_mode if mode is None else mode
        size = host_size if size is None else size
        return self._stat(
            (dev, ino, mode, links, uid, gid, info.st_rdev, size, info.st_blksize, info.st_blocks), times
        )

    def _stat(self, fields: tuple[int, ...], times: tuple[int, ...]) -> bytes:
        dev, ino, mode, links, uid, gid, rdev, size, block, blocks = fields
        return _STAT_GENERIC.pack(
            dev, ino, mode, links & 0xFFFF_FFFF, uid, gid, rdev, 0, size, block, 0, blocks, *times, 0, 0
        )

    # -- signal frame -------------------------------------------------------------------------------------------

    def push_frame(
        self,
        cpu: CpuState,
        memory: GuestMemory,
        stack: int,
        info: SigInfo,
        handler: int,
        mask: int,
        altstack: tuple[int, int, int],
        restorer: int,
    ) -> None:
        """Write an rt_sigframe below ``stack`` and point the vCPU at ``handler``.

        ``mask`` is what sigreturn restores, ``altstack`` is (address, flags, size), ``restorer`` where the handler
        returns to. Raises MemoryFault, with no register changed, if the stack cannot take the frame.
        """
        raise NotImplementedError

    def pop_frame(self, cpu: CpuState, memory: GuestMemory) -> tuple[int, tuple[int, int, int]]:
        """Undo push_frame from the stack pointer: all registers; returns (mask, altstack). Raises MemoryFault."""
        raise NotImplementedError


_UCONTEXT_HEAD: Final = struct.Struct("<QQQIIQQ")
"""uc_flags, uc_link, uc_stack and uc_sigmask."""
_FP_FLAGS: Final = HEADER["fp_flags"] // 8
_FP_ROUNDING: Final = HEADER["fp_rounding"] // 8


def _ucontext_head(altstack: tuple[int, int, int]) -> bytes:
    address, flags, size = altstack
    return struct.pack("<QQQIIQ", 0, 0, address, flags, 0, size)


def _pack_flags(cpu: CpuState, bits: Mapping[str, int], fixed: int) -> int:
    """A flags word from one-bit registers by name; a layout without them has ``fixed`` alone."""
    return fixed | sum((cpu[name] & 1) << bit for name, bit in bits.items() if name in cpu)


def _unpack_flags(cpu: CpuState, bits: Mapping[str, int], word: int) -> None:
    for name, bit in bits.items():
        if name in cpu:
            cpu[name] = word >> bit & 1


def _altstack_of(head: bytes) -> tuple[int, int, int]:
    _, _, address, flags, _, size = struct.unpack_from("<QQQIIQ", head)
    return address, flags, size


class Riscv64(Abi):
    """RISC-V 64: arguments in a0-a5, number in a7."""

    isa = "riscv64"
    machine = "riscv64"
    number_register = ("a7", "x17")
    argument_registers = tuple((f"a{i}", f"x{10 + i}") for i in range(6))
    result_register = ("a0", "x10")
    stack_register = ("sp", "x2")
    thread_register = ("tp", "x4")
    hwcap = sum(1 << (ord(letter) - ord("A")) for letter in "IMAFDC")
    has_restorer = False
    plain_frame = True

    FRAME: Final = 128 + 960
    signal_frame = FRAME
    UCONTEXT: Final = 128
    """Byte offset of the ucontext_t in the frame: behind the siginfo_t."""
    REGISTERS: Final = 128 + 176
    """Of the pc and x1 to x31."""
    FP: Final = 128 + 176 + 256
    """Of f0 to f31 and fcsr."""

    def __init__(self, layout: StateLayout) -> None:
        super().__init__(layout)
        self._x1 = self.word("x1")
        self._f0 = self.word("f0") if "f0" in layout.names else -1
        self._handler_words = (self._x1, self._x1 + 1, self._x1 + 9, self._x1 + 10, self._x1 + 11)

    def push_frame(
        self,
        cpu: CpuState,
        memory: GuestMemory,
        stack: int,
        info: SigInfo,
        handler: int,
        mask: int,
        altstack: tuple[int, int, int],
        restorer: int,
    ) -> None:
        # PERF: registers go to the frame, and come back, as they lie in the vCPU: two copies, not 64 conversions.
        frame = (stack - self.FRAME) & -16 & MASK64
        memory.check(frame, self.FRAME, Access.WRITE)
        words, x1, f0 = cpu.words, self._x1, self._f0
        out = bytearray(self.FRAME)
        out[:128] = info.pack()
        address, flags, size = altstack
        _UCONTEXT_HEAD.pack_into(out, self.UCONTEXT, 0, 0, address, flags, 0, size, mask)
        registers = memoryview(out)[self.REGISTERS :][:256].cast("Q")
        registers[0] = words[0]
        registers[1:] = words[x1 : x1 + 31]
        if f0 >= 0:
            memoryview(out)[self.FP :][:256].cast("Q")[:] = words[f0 : f0 + 32]
            fcsr = (words[_FP_ROUNDING] & 7) << 5 | words[_FP_FLAGS] & 31
            out[self.FP + 256] = fcsr
        memory.view[frame : frame + self.FRAME] = out
        ra, sp, a0, a1, a2 = self._handler_words
        words[ra], words[sp], words[a0] = restorer, frame, info.number
        words[a1], words[a2] = frame, frame + self.UCONTEXT
        words[0] = handler & MASK64 & -2  # sepc has no bit 0

    def pop_frame(self, cpu: CpuState, memory: GuestMemory) -> tuple[int, tuple[int, int, int]]:
        words, x1, f0 = cpu.words, self._x1, self._f0
        raw = memoryview(memory.read(words[x1 + 1], self.FRAME))
        _, _, address, flags, _, size, mask = _UCONTEXT_HEAD.unpack_from(raw, self.UCONTEXT)
        registers = raw[self.REGISTERS :][:256].cast("Q")
        words[0] = registers[0] & -2
        words[x1 : x1 + 31] = registers[1:]
        if f0 >= 0:
            words[f0 : f0 + 32] = raw[self.FP :][:256].cast("Q")
            fcsr = raw[self.FP + 256]
            words[_FP_FLAGS], words[_FP_ROUNDING] = fcsr & 31, fcsr >> 5
        cpu.header("reservation", MASK64)
        return mask, (address, flags, size)


class Aarch64(Abi):
    """AArch64: arguments in x0-x5, number in x8."""

    isa = "aarch64"
    machine = "aarch64"
    number_register = ("x8",)
    argument_registers = tuple((f"x{i}",) for i in range(6))
    result_register = ("x0",)
    stack_register = ("sp",)
    thread_register = ("tpidr_el0", "tpidr")
    hwcap = 0b11  # FP, ASIMD
    platform = "aarch64"
    min_signal_stack = 5120
    O_DIRECTORY = 0o40000
    O_NOFOLLOW = 0o100000
    O_DIRECT = 0o200000
    O_LARGEFILE = 0o400000

    _FRAME: Final = 128 + 464 + 4096
    _UC: Final = 128
    _MC: Final = 128 + 176
    _FPSIMD: Final = 128 + 464
    _FPSIMD_MAGIC: Final = 0x46508001
    FLAGS: ClassVar[Mapping[str, int]] = {"n": 31, "z": 30, "c": 29, "v": 28}

    def push_frame(
        self,
        cpu: CpuState,
        memory: GuestMemory,
        stack: int,
        info: SigInfo,
        handler: int,
        mask: int,
        altstack: tuple[int, int, int],
        restorer: int,
    ) -> None:
        record = (stack - 16) & -16 & MASK64
        frame = (record - self._FRAME) & -16 & MASK64
        out = bytearray(record + 16 - frame)
        out[:128] = info.pack()
        head = _ucontext_head(altstack) + struct.pack("<Q", mask)
        out[self._UC : self._UC + len(head)] = head
        registers = [cpu[f"x{i}"] for i in range(31)]
        pstate = _pack_flags(cpu, self.FLAGS, 0)
        struct.pack_into("<Q31QQQQ", out, self._MC, info.address, *registers, cpu["sp"], cpu.pc, pstate)
        if "v0" in cpu:
            flags, rounding = cpu.header("fp_flags"), cpu.header("fp_rounding")
            struct.pack_into(
                "<IIII", out, self._FPSIMD, self._FPSIMD_MAGIC, 528, flags & MASK64, rounding << 22
            )
            for i in range(32):
                at = self._FPSIMD + 16 + 16 * i
                out[at : at + 16] = cpu[f"v{i}"].to_bytes(16, "little")
        struct.pack_into("<QQ", out, record - frame, cpu["x29"], cpu["x30"])
        memory.write(frame, out)
        cpu["x0"], cpu["x1"], cpu["x2"] = info.number, frame, frame + self._UC
        cpu["x29"], cpu["x30"] = record, restorer
        cpu["sp"] = frame
        cpu.pc = handler

    def pop_frame(self, cpu: CpuState, memory: GuestMemory) -> tuple[int, tuple[int, int, int]]:
        raw = memory.read(cpu["sp"], self._FRAME)
        mask = int.from_bytes(raw[self._UC + 40 : self._UC + 48], "little")
        _, *registers, sp, pc, pstate = struct.unpack_from("<Q31QQQQ", raw, self._MC)
        for i, value in enumerate(registers):
            cpu[f"x{i}"] = value
        cpu["sp"], cpu.pc = sp, pc
        _unpack_flags(cpu, self.FLAGS, pstate)
        magic, _, flags, control = struct.unpack_from("<IIII", raw, self._FPSIMD)
        if magic == self._FPSIMD_MAGIC and "v0" in cpu:
            cpu.header("fp_flags", flags)
            cpu.header("fp_rounding", control >> 22 & 3)
            for i in range(32):
                at = self._FPSIMD + 16 + 16 * i
                cpu[f"v{i}"] = int.from_bytes(raw[at : at + 16], "little")
        return mask, _altstack_of(raw[self._UC : self._UC + 40])


class X86_64(Abi):  # noqa: N801 - the ISA's own name
    """x86-64: number and result in rax, arguments in rdi, rsi, rdx, r10, r8, r9."""

    illegal_code = 2  # ILL_ILLOPN
    isa = "x86_64"
    machine = "x86_64"
    column = "x86_64"
    number_register = ("rax",)
    argument_registers = (("rdi",), ("rsi",), ("rdx",), ("r10",), ("r8",), ("r9",))
    result_register = ("rax",)
    stack_register = ("rsp",)
    thread_register = ("fs_base", "fsbase")
    syscall_bytes = 2
    hwcap = 0x0781_AB6D & ~(1 << 28)  # CPUID.1:EDX without hyper-threading
    platform = "x86_64"
    clone_tls_before_ctid = False
    red_zone = 128

    _ORDER: Final = (
        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp",
    )  # fmt: skip
    FLAGS: ClassVar[Mapping[str, int]] = {"cf": 0, "pf": 2, "af": 4, "zf": 6, "sf": 7, "df": 10, "of": 11}
    _TF: Final = 1 << 8
    _RF: Final = 1 << 16
    _RESTORED: Final = _TF | _RF | 1 << 18
    """TF, RF and AC: what a handler's return restores of the flags that the state has no registers for."""
    _FXSAVE: Final = 512
    _XSTATE: Final = struct.Struct("<IIQI28x")
    """Linux's words in the FXSAVE image's last bytes: magic, bytes in all, components, bytes of the XSAVE area."""
    _CLEAN: Final = struct.pack("<H22xII", 0x37F, 0x1F80, 0xFFFF).ljust(576, b"\0")
    """An XSAVE area in which all components are as in a new program."""
    _MAGIC1: Final = 0x4650_5853
    _MAGIC2: Final = struct.pack("<I", 0x4650_5845)
    signal_frame = 8 + 40 + 256 + 8 + 128 + 128 + 2696 + 4 + 64 + 304
    """With AVX-512."""
    _UC: Final = 8
    _MC: Final = 8 + 40
    _FRAME: Final = 8 + 40 + 256 + 8 + 128

    def _stat(self, fields: tuple[int, ...], times: tuple[int, ...]) -> bytes:
        dev, ino, mode, links, uid, gid, rdev, size, block, blocks = fields
        return _STAT_X86.pack(
            dev, ino, links, mode, uid, gid, 0, rdev, size, block, blocks, *times, 0, 0, 0,
        )  # fmt: skip

    def push_frame(
        self,
        cpu: CpuState,
        memory: GuestMemory,
        stack: int,
        info: SigInfo,
        handler: int,
        mask: int,
        altstack: tuple[int, int, int],
        restorer: int,
    ) -> None:
        # The FXSAVE image of the SSE state lies above the frame.
        image = self._vectors(cpu)
        saved = (stack - self.red_zone - len(image)) & -64
        # As after a call: rsp + 8 is 16-byte aligned on entry.
        frame = (((saved - self._FRAME) & -16) - 8) & MASK64
        flags = _pack_flags(cpu, self.FLAGS, 0x202)
        head = _ucontext_head(altstack)
        if cpu.outside is not None:
            flags |= cpu.outside.flags
            cpu.outside.flags &= ~(self._TF | self._RF)
            head = b"\7" + head[1:]  # UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
        out = struct.pack("<Q", restorer) + head
        out += struct.pack("<16Q", *(cpu[name] for name in self._ORDER))
        out += struct.pack(
            "<QQHHHHQQQQQ",
            cpu.pc,
            flags,
            0x33,
            0,
            0,
            0x2B,
            info.error,
            info.trap,
            mask,
            info.address if info.trap == 14 else 0,
            saved & MASK64,
        )
        out = out.ljust(self._MC + 256, b"\0") + struct.pack("<Q", mask) + info.pack()
        memory.check(frame, (saved & MASK64) + len(image) - frame, Access.WRITE)
        memory.write(frame, out)
        memory.write(saved, image)
        if cpu.outside is not None and not self._is_clean(image):
            cpu.outside.load(self._CLEAN)
        cpu["rdi"], cpu["rsi"], cpu["rdx"] = info.number, frame + self._FRAME - 128, frame + self._UC
        cpu["rax"] = 0
        _unpack_flags(cpu, {"df": 10}, 0)
        cpu["rsp"] = frame
        cpu.pc = handler

    def _is_clean(self, image: bytes) -> bool:
        """Whether a handler can begin with these. PERF: Linux gives each the registers of a new program; here they are loaded only where
        a handler's floating point would notice: another control word, exceptions that wait, a stack that is in use."""
        control, status, tags = struct.unpack_from("<HHB", image)
        return (control, status, tags) == (0x37F, 0, 0) and int.from_bytes(
            image[24:28], "little"
        ) & ~0x3F == 0x1F80

    def _vectors(self, cpu: CpuState) -> bytes:
        """The image of the vector registers in a frame: FXSAVE's, or if the engine has more of them XSAVE's."""
        if cpu.outside is not None:
            area = bytearray(cpu.outside.save())
            components = int.from_bytes(area[512:520], "little")
            words = self._XSTATE.pack(self._MAGIC1, len(area) + 4, components, len(area))
            area[464:512] = words
            return bytes(area) + self._MAGIC2
        image = bytearray(self._FXSAVE)
        struct.pack_into("<II", image, 24, cpu.header("fp_flags") & 0x3F | 0x1F80, 0xFFFF)
        if "xmm0" in cpu:
            for i in range(16):
                image[160 + 16 * i : 176 + 16 * i] = cpu[f"xmm{i}"].to_bytes(16, "little")
        return bytes(image)

    def _load_vectors(self, outside: Outside, memory: GuestMemory, saved: int, image: bytes) -> None:
        """As the kernel: without the magic words, the legacy part alone counts."""
        magic, size, _, length = self._XSTATE.unpack_from(image, 464)
        if magic == self._MAGIC1 and 576 <= length <= 1 << 16 and size == length + 4:
            area = memory.read(saved, size)
            if area[length:] == self._MAGIC2:
                outside.load(area[:length])
                return
        outside.load(image + (3).to_bytes(8, "little") + bytes(56))

    def pop_frame(self, cpu: CpuState, memory: GuestMemory) -> tuple[int, tuple[int, int, int]]:
        # The handler's `ret` has popped the return address.
        raw = memory.read(cpu["rsp"] - 8 & MASK64, self._FRAME)
        (saved,) = struct.unpack_from("<Q", raw, self._MC + 23 * 8)
        image = memory.read(saved, self._FXSAVE) if saved else b""
        *registers, pc, flags = struct.unpack_from("<18Q", raw, self._MC)
        for name, value in zip(self._ORDER, registers, strict=True):
            cpu[name] = value
        cpu.pc = pc
        _unpack_flags(cpu, self.FLAGS, flags)
        if cpu.outside is not None:
            cpu.outside.flags = cpu.outside.flags & ~self._RESTORED | flags & self._RESTORED
        if image and cpu.outside is not None:
            self._load_vectors(cpu.outside, memory, saved, image)
        elif image and "xmm0" in cpu:
            cpu.header("fp_flags", int.from_bytes(image[24:28], "little") & 0x3F)
            for i in range(16):
                cpu[f"xmm{i}"] = int.from_bytes(image[160 + 16 * i : 176 + 16 * i], "little")
        mask = int.from_bytes(raw[self._MC + 256 : self._MC + 264], "little")
        return mask, _altstack_of(raw[self._UC : self._UC + 40])


_ABIS: Final[dict[str, type[Abi]]] = {abi.isa: abi for abi in (Riscv64, Aarch64, X86_64)}


def abi_of(isa: str, layout: StateLayout) -> Abi:
    """The ABI object for an ISA name. Raises KeyError."""
    return _ABIS[isa](layout)
