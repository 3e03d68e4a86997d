"""What guests on x86-64 need that is no hypervisor's: the CPU model, and registers for each mode.

SDM volume 2 (CPUID) and volume 3, chapters 3 to 5 and 10.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from vm_core.errors import UsageError

__all__ = [
    "CODE16", "CODE32", "CODE64", "DATA", "FEATURES", "Leaf", "X86Model",
    "long_mode", "page_tables", "protected_mode", "real_mode", "segment",
]  # fmt: skip


class Leaf(NamedTuple):
    """One CPUID leaf. ``flags`` 1: ``subleaf`` (ECX) counts."""

    function: int
    subleaf: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


FEATURES: Final[dict[str, tuple[int, int, str, int]]] = {
    **{
        name: (1, 0, "ecx", bit)
        for name, bit in {
            "sse3": 0, "pclmul": 1, "monitor": 3, "vmx": 5, "ssse3": 9, "fma": 12, "cx16": 13, "pcid": 17, "sse4.1": 19,
            "sse4.2": 20, "x2apic": 21, "movbe": 22, "popcnt": 23, "tsc-deadline": 24, "aes": 25, "xsave": 26, "avx": 28,
            "f16c": 29, "rdrand": 30, "hypervisor": 31,
        }.items()
    },
    **{
        name: (1, 0, "edx", bit)
        for name, bit in {
            "fpu": 0, "tsc": 4, "msr": 5, "pae": 6, "apic": 9, "sep": 11, "pge": 13, "cmov": 15, "clflush": 19,
            "mmx": 23, "fxsr": 24, "sse": 25, "sse2": 26,
        }.items()
    },
    **{
        name: (7, 0, "ebx", bit)
        for name, bit in {
            "fsgsbase": 0, "bmi1": 3, "hle": 4, "avx2": 5, "smep": 7, "bmi2": 8, "erms": 9, "invpcid": 10, "rtm": 11,
            "avx512f": 16, "avx512dq": 17, "rdseed": 18, "adx": 19, "smap": 20, "clflushopt": 23, "clwb": 24, "avx512cd": 28,
            "sha": 29, "avx512bw": 30, "avx512vl": 31,
        }.items()
    },
    **{
        name: (7, 0, "ecx", bit)
        for name, bit in {"avx512vbmi": 1, "umip": 2, "pku": 3, "gfni": 8, "vaes": 9, "vpclmul": 10, "la57": 16, "rdpid": 22}.items()
    },
    **{name: (7, 0, "edx", bit) for name, bit in {"fsrm": 4, "serialize": 14, "amx-bf16": 22, "amx-tile": 24}.items()},
    **{name: (0x8000_0001, 0, "ecx", bit) for name, bit in {"lahf": 0, "svm": 2, "lzcnt": 5, "sse4a": 6, "fma4": 16}.items()},
    **{
        name: (0x8000_0001, 0, "edx", bit)
        for name, bit in {"syscall": 11, "nx": 20, "1gb-pages": 26, "rdtscp": 27, "lm": 29}.items()
    },
}  # fmt: skip
"""Name to leaf, subleaf, register and bit."""


class X86Model(NamedTuple):
    """A CPU as its CPUID leaves: plain data, from which features can be taken away."""

    leaves: tuple[Leaf, ...]

    def has(self, feature: str) -> bool:
        """Whether it has a feature of FEATURES."""
        function, index, register, bit = _place(feature)
        return any(
            getattr(leaf, register) >> bit & 1
            for leaf in self.leaves
            if leaf.function == function and leaf.subleaf == index
        )

    def without(self, *features: str) -> X86Model:
        """The same CPU without these. What needs them (AVX2 needs AVX, say) is the caller's to take away too."""
        masks: dict[tuple[int, int], dict[str, int]] = {}
        for feature in features:
            function, index, register, bit = _place(feature)
            row = masks.setdefault((function, index), {})
            row[register] = row.get(register, 0) | 1 << bit
        return X86Model(
            tuple(
                leaf._replace(
                    **{
                        register: getattr(leaf, register) & ~mask
                        for register, mask in masks.get((leaf.function, leaf.subleaf), {}).items()
                    }
                )
                for leaf in self.leaves
            )
        )

    def replaced(self, leaves: Iterable[Leaf]) -> X86Model:
        """With these in the place of the leaves of the same function and subleaf, or added."""
        new = {(leaf.function, leaf.subleaf): leaf for leaf in leaves}
        kept = [leaf for leaf in self.leaves if (leaf.function, leaf.subleaf) not in new]
        return X86Model((*kept, *new.values()))

    def for_cpu(self, index: int) -> X86Model:
        """With the APIC number of the vCPU ``index`` (SDM volume 3, 10.4.6)."""
        return X86Model(
            tuple(
                leaf._replace(ebx=leaf.ebx & 0x00FF_FFFF | (index & 0xFF) << 24)
                if leaf.function == 1
                else leaf._replace(edx=index)
                if leaf.function in (0xB, 0x1F)
                else leaf
                for leaf in self.leaves
            )
        )


def _place(feature: str) -> tuple[int, int, str, int]:
    try:
        return FEATURES[feature]
    except KeyError:
        raise UsageError(
            f"no CPU feature is called {feature!r}", hint=f"one of {', '.join(sorted(FEATURES))}"
        ) from None


# -- modes ------------------------------------------------------------------------------------------------------------------

CODE16: Final = 0x009B
CODE32: Final = 0xC09B
CODE64: Final = 0xA09B
DATA: Final = 0xC093
"""``.access`` values, for ring 0; ``| 3 << 5`` for ring 3."""
_TSS: Final = 0x008B
_CR0_PE, _CR0_MP, _CR0_ET, _CR0_NE, _CR0_WP, _CR0_PG = 1, 2, 16, 32, 1 << 16, 1 << 31
_CR4_PAE, _CR4_OSFXSR, _CR4_OSXMMEXCPT = 1 << 5, 1 << 9, 1 << 10
_EFER_SCE, _EFER_LME, _EFER_LMA, _EFER_NX = 1, 1 << 8, 1 << 10, 1 << 11
PRESENT, WRITE, USER, LARGE = 1, 2, 4, 1 << 7


def segment(
    name: str, access: int, *, selector: int = 0, base: int = 0, limit: int = 0xFFFF_FFFF
) -> dict[str, int]:
    """The registers of one segment."""
    return {
        f"{name}.base": base,
        f"{name}.limit": limit,
        f"{name}.selector": selector,
        f"{name}.access": access,
    }


def real_mode(entry: int, *, stack: int = 0) -> dict[str, int]:
    """16-bit code at guest-physical ``entry`` below 64 KiB, all segments at 0."""
    out = {"rip": entry, "rsp": stack, "rflags": 2}
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        out |= segment(name, CODE16 if name == "cs" else 0x93, limit=0xFFFF)
    return out


def protected_mode(entry: int, *, stack: int = 0) -> dict[str, int]:
    """Flat 32-bit code in ring 0, without paging."""
    out = {"rip": entry, "rsp": stack, "rflags": 2, "cr0": _CR0_PE | _CR0_ET | _CR0_NE}
    out |= segment("cs", CODE32, selector=8)
    for name in ("ds", "es", "fs", "gs", "ss"):
        out |= segment(name, DATA, selector=16)
    return out | segment("tr", _TSS, limit=0xFFFF)


def long_mode(entry: int, tables: int, *, stack: int = 0, ring: int = 0) -> dict[str, int]:
    """64-bit code in ring 0 or 3, with page tables at guest-physical ``tables``. Ring 3 may use all ports (IOPL 3)."""
    dpl = ring << 5
    out = {
        "rip": entry,
        "rsp": stack,
        "rflags": 2 | ring << 12,
        "cr0": _CR0_PE | _CR0_MP | _CR0_ET | _CR0_NE | _CR0_WP | _CR0_PG,
        "cr3": tables,
        "cr4": _CR4_PAE | _CR4_OSFXSR | _CR4_OSXMMEXCPT,
        "efer": _EFER_SCE | _EFER_LME | _EFER_LMA | _EFER_NX,
    }
    # The order of SYSRET (SDM volume 2): user code lies 16 above user data's 8.
    out |= segment("cs", CODE64 | dpl, selector=0x33 if ring else 0x10)
    for name in ("ds", "es", "fs", "gs", "ss"):
        out |= segment(name, DATA | dpl, selector=0x2B if ring else 0x18)
    return out | segment("tr", _TSS, selector=0x40, limit=0x67)


def page_tables(at: int, *, gigabytes: int = 1, user: bool = False) -> bytes:
    """Tables at guest-physical ``at`` that map the lowest ``gigabytes`` (at most 512) to themselves, in pages of 2 MiB.

    One page for the root, one for the next level, and one per gigabyte.
    """
    flags = PRESENT | WRITE | (USER if user else 0)
    out = bytearray()
    out += (at + 0x1000 | flags).to_bytes(8, "little").ljust(0x1000, b"\0")
    out += b"".join((at + 0x2000 + 0x1000 * i | flags).to_bytes(8, "little") for i in range(gigabytes)).ljust(
        0x1000, b"\0"
    )
    out += b"".join((i << 21 | flags | LARGE).to_bytes(8, "little") for i in range(512 * gigabytes))
    return bytes(out)
