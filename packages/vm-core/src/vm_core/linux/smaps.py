"""/proc/self/smaps and smaps_rollup: the guest's mappings, and how much of each the host has memory for.

proc_pid_smaps(5), Linux's fs/proc/task_mmu.c (show_smap). What the host tells of a page is whether it is there, whether it
is a file's, and whether another process has it too. What it does not tell is said as it mostly is: anonymous pages are
dirty, those of files are not, all have been used, and two processes share what is shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.procfs import maps_line
from vm_core.memory import PAGE, Prot, Region

if TYPE_CHECKING:
    from vm_core.linux.process import Process

__all__ = ["rollup_text", "smaps_text"]

_SIZES: Final = (
    "Rss", "Pss", "Pss_Dirty", "Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty", "Referenced", "Anonymous",
    "KSM", "LazyFree", "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb", "Swap",
    "SwapPss", "Locked",
)  # fmt: skip
_KINDS: Final = ("Pss_Anon", "Pss_File", "Pss_Shmem")
"""In the sum only, behind Pss_Dirty."""
_NO_FILE: Final = ("", "/dev/zero (deleted)")
_AT: Final = _SIZES.index("Shared_Clean")


def smaps_text(process: Process) -> str:
    out = []
    for region in process.memory.regions():
        head = {"Size": region.end - region.start, "KernelPageSize": PAGE, "MMUPageSize": PAGE}
        out += [maps_line(region), _lines(head, head), _lines(_SIZES, _sizes(process, region))]
        out.append(f"THPeligible:           0\nVmFlags: {_flags(region)} \n")
    return "".join(out)


def rollup_text(process: Process) -> str:
    regions = list(process.memory.regions())
    total: Counter[str] = Counter()
    for region in regions:
        total.update(_sizes(process, region))
    whole = Region(regions[0].start, regions[-1].end, Prot.NONE, "[rollup]")
    return maps_line(whole) + _lines((*_SIZES[:_AT], *_KINDS, *_SIZES[_AT:]), total)


def _lines(names: Iterable[str], sizes: Mapping[str, int]) -> str:
    return "".join(f"{name + ':':<16}{sizes.get(name, 0) >> 10:8} kB\n" for name in names)


def _sizes(process: Process, region: Region) -> dict[str, int]:
    """Bytes of a region, by the names of their lines; 0 is left out."""
    there = process.memory.residence(region.start, region.end)
    # In a process that never forked, it is the page of zeros that several map, and nobody's memory.
    shared = there.shared if process.family is not None else 0
    private, together, anonymous = (
        there.alone + there.file_alone,
        shared + there.file_shared,
        there.alone + shared,
    )
    # To the host, what is shared without a file is a file's all the same.
    in_memory = region.shared and region.name in _NO_FILE
    pss = (there.alone + shared / 2, there.file_alone + there.file_shared / 2)
    dirty = (private, together) if in_memory else (there.alone, shared)
    pages = {
        "Rss": private + together,
        "Pss": sum(pss),
        "Pss_Dirty": pss[0] + (pss[1] if in_memory else 0),
        "Pss_Anon": pss[0],
        "Pss_Shmem" if in_memory else "Pss_File": pss[1],
        "Shared_Clean": together - dirty[1],
        "Shared_Dirty": dirty[1],
        "Private_Clean": private - dirty[0],
        "Private_Dirty": dirty[0],
        "Referenced": private + together,
        "Anonymous": anonymous,
        "Swap": there.swapped,
        "SwapPss": there.swapped,
    }
    return {name: int(count * PAGE) for name, count in pages.items()}


def _flags(region: Region) -> str:
    """VmFlags: what is allowed, what may be allowed, and of what kind it is."""
    prot, backing = region.prot, region.backing
    may_write = not region.shared or backing is None or backing.writable
    private = not region.shared
    flags = (
        ("rd", prot & Prot.READ), ("wr", prot & Prot.WRITE), ("ex", prot & Prot.EXEC),
        ("sh", region.shared and may_write), ("mr", True), ("mw", may_write), ("me", True), ("ms", region.shared),
        ("gd", region.name == "[stack]"), ("de", region.name == "[vdso]"), ("ac", private and prot & Prot.WRITE),
    )  # fmt: skip
    return " ".join(name for name, has in flags if has)
