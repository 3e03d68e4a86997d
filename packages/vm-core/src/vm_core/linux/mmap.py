"""Memory calls: brk, mmap and their family.

A mapped file is the host's own page cache, and shared anonymous memory a memory file of the host's, so both stay
shared with other processes. Whoever truncates a mapped file makes the host raise SIGBUS, so with an engine that cannot
take it (:attr:`vm_core.memory.GuestMemory.catches_bus`: the reference executor) file mappings are copies, and the
changed pages of a shared one are written back by msync, munmap and at exit. Running out of the arena is ENOMEM; running
over the memory cap ends the guest.
"""

from __future__ import annotations

import contextlib
import errno
import os

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import s32
from vm_core.linux.files import REGULAR, File
from vm_core.linux.limits import has_room
from vm_core.linux.native import ADVICE
from vm_core.memory import DENSE, HUGE, PAGE, Backing, GuestMemory, Prot, Region, page_down, page_up
from vm_core.record import record

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread, Process

__all__ = ["Shared", "flush_all", "write_back"]

_FD: Final = 0xFFFF_FFFF
_O_PATH: Final = 0o10000000
_SHARED, _PRIVATE, _VALIDATE = 1, 2, 3
_FIXED, _ANONYMOUS, _NORESERVE, _STACK, _HUGETLB, _NOREPLACE = 0x10, 0x20, 0x4000, 0x20000, 0x40000, 0x100000
_GROWSDOWN: Final = 0x100
_KNOWN: Final = 0xFC07_F973
"""Flags that MAP_SHARED_VALIDATE takes for any file: Linux's LEGACY_MAP_MASK."""
_PROT_SEM, _PROT_GROWSDOWN, _PROT_GROWSUP = 0x8, 0x0100_0000, 0x0200_0000
_MAYMOVE, _MREMAP_FIXED, _DONTUNMAP = 1, 2, 4
_DONTNEED, _REMOVE = 4, 9
_ON_FAULT, _MCL_ON_FAULT = 1, 4
_COPY: Final = 16 << 20
"""Bytes of a file copied before the end of the process is looked for."""
_MAX_REGIONS: Final = 65_530
"""As Linux's vm.max_map_count: each mapping is the host's memory, which the guest's cap does not count."""


@record()
class Shared:
    """A writable shared file mapping: guest range, file and what each page held when last in step with it."""

    start: int
    end: int
    file: File
    offset: int
    digests: list[bytes]


def _digest(page: memoryview) -> bytes:
    import hashlib

    return hashlib.blake2b(page, digest_size=16).digest()


def _digests(memory: GuestMemory, start: int, end: int) -> list[bytes]:
    """The digest of each page of a range."""
    with memory.opened(start, end - start) as view:
        return [_digest(view[at : at + PAGE]) for at in range(0, end - start, PAGE)]


def write_back(process: Process, start: int, end: int) -> None:
    """Write the changed pages of shared mappings in ``[start, end)`` to their files, never past the file's end."""
    memory = process.memory
    for shared in list(process.shared):
        low, high = max(shared.start, start), min(shared.end, end)
        if low >= high or shared.file.fd < 0:
            continue
        size = os.fstat(shared.file.fd).st_size
        for address in range(low, high, PAGE):
            at = shared.offset + address - shared.start
            number = (address - shared.start) // PAGE
            with memory.opened(address, PAGE) as page:
                digest = _digest(page)
                if digest != shared.digests[number] and at < size:
                    os.pwrite(shared.file.fd, page[: size - at], at)
                    shared.digests[number] = digest


def _forget(process: Process, start: int, end: int) -> None:
    """Write back and drop the part of the shared mappings that is being unmapped or replaced."""
    if not process.shared:
        return
    write_back(process, start, end)
    kept: list[Shared] = []
    for shared in process.shared:
        if shared.end <= start or shared.start >= end:
            kept.append(shared)
            continue
        for low, high in ((shared.start, min(start, shared.end)), (max(end, shared.start), shared.end)):
            if low < high:
                first = (low - shared.start) // PAGE
                shared.file.refs += 1
                digests = shared.digests[first : first + (high - low) // PAGE]
                kept.append(Shared(low, high, shared.file, shared.offset + low - shared.start, digests))
        process.files.release(shared.file)
    process.shared[:] = kept


def _moved(process: Process, start: int, end: int, place: int) -> list[Shared]:
    """What the shared mappings in ``[start, end)``, which are in step with their files, are at ``place``."""
    out = []
    for shared in process.shared:
        low, high = max(shared.start, start), min(shared.end, end)
        if low < high:
            shared.file.refs += 1
            first = (low - shared.start) // PAGE
            digests = shared.digests[first : first + (high - low) // PAGE]
            at = place + low - start
            out.append(Shared(at, at + high - low, shared.file, shared.offset + low - shared.start, digests))
    return out


def _extend(process: Process, start: int, end: int) -> None:
    """Fresh pages follow a shared mapping that ends at ``start``: they show its file too."""
    before = next((shared for shared in process.shared if shared.end == start < end), None)
    if before is not None:
        memory, offset = process.memory, before.offset + start - before.start
        _fill(process, before.file, start, end - start, offset)
        before.file.refs += 1
        digests = _digests(memory, start, end)
        process.shared.append(Shared(start, end, before.file, offset, digests))


def _prot(value: int) -> Prot:
    prot = Prot(value & 7)
    # As the CPUs of all three ISAs: what can be written can be read.
    return prot | Prot.READ if prot & Prot.WRITE else prot


def brk(t: GuestThread, address: int) -> int:
    process = t.process
    memory = process.memory
    with memory.lock:
        if not process.brk_start <= address < memory.size:
            return process.brk
        old, new = page_up(process.brk), page_up(address)
        if new > old:
            if memory.find_free(new - old, hint=old) != old or not has_room(process, new - old, 3):
                return process.brk
            memory.map(old, new - old, Prot.RW, name="[heap]")
            _expect_use(memory, old, new)
        elif new < old:
            memory.unmap(new, old - new)
        process.set_brk(address)
        return address


def _expect_use(memory: GuestMemory, start: int, end: int) -> None:
    """The guest will probably write all of this new range."""
    if end - start < DENSE:
        memory.populate(start, end)
        return
    # PERF: where the guest's table is larger than what the host's translation buffer covers.
    memory.prefer_huge_pages(start, end - start)
    memory.populate(start, -(-start // HUGE) * HUGE)
    if end % HUGE < HUGE // 2:
        memory.populate(end // HUGE * HUGE, end)


def mmap(t: GuestThread, address: int, length: int, prot: int, flags: int, fd: int, offset: int) -> int:
    memory = t.memory
    kind = flags & 0xF
    file: File | None = None
    # In the kernel's order: where, of what, how much, how.
    if offset % PAGE:
        return -errno.EINVAL
    if not flags & _ANONYMOUS:
        file = t.table.get(fd & _FD)
        if file is None or file.flags & _O_PATH:
            return -errno.EBADF
    if not length or kind not in (_SHARED, _PRIVATE, _VALIDATE):
        return -errno.EINVAL
    if kind == _VALIDATE and file is None:
        return -errno.EINVAL
    if flags & _HUGETLB or length > memory.size:
        return -errno.ENOMEM
    length = page_up(length)
    if file is not None and kind == _VALIDATE and flags & ~_KNOWN:
        return -errno.EOPNOTSUPP
    if flags & _GROWSDOWN and (file is not None or kind != _PRIVATE):
        return -errno.EINVAL
    if file is not None:
        if file.flags & 3 == 1 or (kind != _PRIVATE and prot & 2 and file.flags & 3 != 2):
            return -errno.EACCES
        if file.kind != REGULAR:
            return _map_device(t, file, address, length, prot, flags)
    with memory.lock:
        if memory.region_count >= _MAX_REGIONS:
            return -errno.ENOMEM
        place = _choose(t, address, length, flags)
        if place < 0:
            return place
        if not has_room(t.process, length, prot, shared=kind != _PRIVATE):
            return -errno.ENOMEM
        _forget(t.process, place, place + length)
        shared = kind != _PRIVATE
        if file is None and shared:
            memory.map_shared(place, length, _prot(prot))
            return place
        if file is None:
            memory.map(place, length, _prot(prot))
            if prot & 2 and not flags & _STACK and (length >= DENSE or not flags & _NORESERVE):
                _expect_use(memory, place, place + length)
            return place
        if memory.catches_bus:
            if offset + length > 1 << 63:
                return -errno.EOVERFLOW
            memory.map_file(
                place,
                length,
                _prot(prot),
                file.fd,
                offset,
                name=file.path,
                shared=shared,
                writable=file.flags & 3 == 2,
            )
            return place
        info, writable = os.fstat(file.fd), not shared or file.flags & 3 == 2
        backing = Backing(info.st_dev, info.st_ino, writable, real=False)
        memory.map(place, length, _prot(prot), name=file.path, shared=shared, offset=offset, backing=backing)
        _fill(t.process, file, place, length, offset)
        if shared and file.flags & 3 == 2:
            file.refs += 1
            digests = _digests(memory, place, place + length)
            t.process.shared.append(Shared(place, place + length, file, offset, digests))
        if prot & 4:
            t.process.engine.synchronize(memory)
    return place


def _choose(t: GuestThread, address: int, length: int, flags: int) -> int:
    """Where a new mapping goes, or a negative errno."""
    memory = t.memory
    if flags & (_FIXED | _NOREPLACE):
        if address % PAGE:
            return -errno.EINVAL
        if address + length > memory.size:
            return -errno.ENOMEM
        if address < 0x1000:
            return -errno.EPERM
        if flags & _NOREPLACE and memory.find_free(length, hint=address) != address:
            return -errno.EEXIST
        return address
    hint, top = page_down(address) if address < memory.size else 0, t.process.mmap_top
    place = memory.find_free(length, hint=hint, high=top)
    if place is None:
        return -errno.ENOMEM
    if place != hint and length >= DENSE and flags & _ANONYMOUS:
        # PERF: at a multiple of a large page's size, whose first and last pages are no small ones then.
        room = memory.find_free(length + HUGE - PAGE, high=top)
        place = place if room is None else -(-room // HUGE) * HUGE
    return place


def _fill(process: Process, file: File, place: int, length: int, offset: int) -> None:
    """Copy a file into fresh pages. What lies behind the file's end stays zero."""
    memory = process.memory
    size = os.fstat(file.fd).st_size
    length = min(length, max(size - offset, 0))
    done = 0
    while done < length and not process.stopping:
        end = min(length, done + _COPY)
        with memory.opened(place + done, end - done) as view:
            count = os.preadv(file.fd, [view], offset + done)
        if not count:
            break
        done += count


def _map_device(t: GuestThread, file: File, address: int, length: int, prot: int, flags: int) -> int:
    """/dev/zero is anonymous memory; nothing else that is not a regular file can be mapped."""
    if file.path != "/dev/zero":
        return -errno.ENODEV
    return mmap(t, address, length, prot, flags | _ANONYMOUS, 0, 0)


def munmap(t: GuestThread, address: int, length: int) -> int:
    memory = t.memory
    if address % PAGE or not length or address + length > memory.size:
        return -errno.EINVAL
    with memory.lock:
        if memory.region_count >= _MAX_REGIONS and memory.region_at(address) == memory.region_at(
            page_up(address + length)
        ):
            return -errno.ENOMEM  # it would make two of one
        _forget(t.process, address, address + page_up(length))
        memory.unmap(address, length)
    return 0


def mprotect(t: GuestThread, address: int, length: int, prot: int) -> int:
    grows = prot & (_PROT_GROWSDOWN | _PROT_GROWSUP)
    if address % PAGE or grows == _PROT_GROWSDOWN | _PROT_GROWSUP:
        return -errno.EINVAL
    if not length:
        return 0
    if prot & _FD & ~(7 | _PROT_SEM | grows):
        return -errno.EINVAL
    if length > t.memory.size or address + length > t.memory.size:
        return -errno.ENOMEM
    if grows:
        # From where the stack begins; nothing else grows.
        region = t.memory.region_at(address)
        if region is None:
            return -errno.ENOMEM
        if region.name != "[stack]" or grows == _PROT_GROWSUP:
            return -errno.EINVAL
        address, length = region.start, address + length - region.start
    if t.memory.region_count >= _MAX_REGIONS:
        return -errno.ENOMEM
    return 0 if t.memory.protect(address, length, _prot(prot)) else -errno.ENOMEM


def pkey_mprotect(t: GuestThread, address: int, length: int, prot: int, key: int) -> int:
    return mprotect(t, address, length, prot) if key & _FD == _FD else -errno.EINVAL


def pkey_alloc(_t: GuestThread, _flags: int, _rights: int) -> int:
    """No CPU of ours has protection keys; Linux says EINVAL then."""
    return -errno.EINVAL


def pkey_free(_t: GuestThread, _key: int) -> int:
    return -errno.EINVAL


def mremap(t: GuestThread, old: int, old_length: int, new_length: int, flags: int, new: int) -> int:
    memory = t.memory
    if old % PAGE or not new_length or flags & ~7 or (flags & _MREMAP_FIXED and not flags & _MAYMOVE):
        return -errno.EINVAL
    if flags & _DONTUNMAP or not old_length:
        return -errno.EINVAL
    if new_length > memory.size:
        return -errno.ENOMEM
    old_length, new_length = page_up(old_length), page_up(new_length)
    with memory.lock:
        region = memory.region_at(old)
        if region is None or old + old_length > memory.size or not memory.is_mapped(old, old_length):
            return -errno.EFAULT
        if not flags & _MREMAP_FIXED:
            if new_length <= old_length:
                if new_length < old_length:
                    munmap(t, old + new_length, old_length - new_length)
                return old
            extra = new_length - old_length
            if not has_room(t.process, extra, int(region.prot), shared=region.shared):
                return -errno.ENOMEM
            if memory.find_free(extra, hint=old + old_length) == old + old_length:
                if _is_real(region):
                    return _move(t, region, old, old_length, old, new_length)
                memory.map(old + old_length, extra, region.prot, name=region.name, shared=region.shared)
                _extend(t.process, old + old_length, old + new_length)
                return old
            if not flags & _MAYMOVE:
                return -errno.ENOMEM
            place = memory.find_free(new_length, high=t.process.mmap_top)
            if place is None:
                return -errno.ENOMEM
        else:
            place = new
            if place % PAGE or place + new_length > memory.size:
                return -errno.EINVAL
            if place < 0x1000:
                return -errno.EPERM
            if place < old + old_length and old < place + new_length:
                return -errno.EINVAL
            _forget(t.process, place, place + new_length)
        if _is_real(region):
            return _move(t, region, old, old_length, place, new_length)
        kept = min(old_length, new_length)
        write_back(t.process, old, old + old_length)
        moved = _moved(t.process, old, old + kept, place)
        _forget(t.process, old, old + old_length)
        memory.map(
            place, new_length, region.prot, name=region.name, shared=region.shared, offset=region.offset
        )
        with memory.opened(old, kept) as source, memory.opened(place, kept) as target:
            target[:] = source
        memory.unmap(old, old_length)
        t.process.shared.extend(moved)
        _extend(t.process, place + kept, place + new_length)
        if region.prot & Prot.EXEC:
            t.process.engine.synchronize(memory)
        return place


def _is_real(region: Region) -> bool:
    return region.backing is not None and region.backing.real


def _move(t: GuestThread, region: Region, old: int, old_length: int, new: int, new_length: int) -> int:
    if old + old_length > region.end:
        return -errno.EFAULT  # more than one mapping, which the kernel does not move either
    t.memory.move(old, old_length, new, new_length)
    if region.prot & Prot.EXEC:
        t.process.engine.synchronize(t.memory)
    return new


def madvise(t: GuestThread, address: int, length: int, advice: int) -> int:
    advice = s32(advice)
    if address % PAGE or advice not in ADVICE:
        return -errno.EINVAL
    if not length:
        return 0
    if not _whole(length):
        return -errno.EINVAL
    memory = t.memory
    if address + length > memory.size or not memory.is_mapped(address, length):
        return -errno.ENOMEM
    if advice == _DONTNEED:
        end = page_up(address + length)
        with memory.lock:
            while address < end:
                region = memory.region_at(address)
                if region is None:
                    return -errno.ENOMEM
                stop = min(region.end, end)
                # A file's copy stays: dropping it would show zeros instead of the file.
                if _is_real(region) or not region.name or region.name.startswith("["):
                    memory.discard(address, stop - address)
                address = stop
    elif advice == _REMOVE:
        region = memory.region_at(address)
        if region is None or not region.name or region.name.startswith("["):
            return -errno.EINVAL  # there is no file
        return -errno.EOPNOTSUPP
    return 0


def _whole(length: int) -> int:
    """A length in whole pages, as the kernel has it: what is almost 2**64 is nothing."""
    return page_up(length) & 0xFFFF_FFFF_FFFF_FFFF


def msync(t: GuestThread, address: int, length: int, flags: int) -> int:
    # MS_ASYNC, MS_INVALIDATE and MS_SYNC; not both of how long it may take.
    if address % PAGE or flags & _FD & ~7 or flags & 5 == 5:
        return -errno.EINVAL
    length = _whole(length)
    if length and (address + length > t.memory.size or not t.memory.is_mapped(address, length)):
        return -errno.ENOMEM
    with t.memory.lock:
        write_back(t.process, address, page_up(address + length))
    return 0


def mincore(t: GuestThread, address: int, length: int, result: int) -> int:
    if address % PAGE:
        return -errno.EINVAL
    if length and (address + length > t.memory.size or not t.memory.is_mapped(address, length)):
        return -errno.ENOMEM
    t.memory.write(result, b"\1" * (page_up(length) // PAGE))
    return 0


def mlock(t: GuestThread, address: int, length: int) -> int:
    """Guest memory is never promised to stay resident; the calls succeed as they do for a small RLIMIT_MEMLOCK."""
    length = _whole(length + address % PAGE)
    return 0 if not length or t.memory.is_mapped(page_down(address), length) else -errno.ENOMEM


def mlock2(t: GuestThread, address: int, length: int, flags: int) -> int:
    return -errno.EINVAL if flags & _FD & ~_ON_FAULT else mlock(t, address, length)


def mlockall(_t: GuestThread, flags: int) -> int:
    flags &= _FD
    return -errno.EINVAL if not flags or flags & ~7 or flags == _MCL_ON_FAULT else 0


def flush_all(process: Process) -> None:
    """At exit: shared mappings reach their files."""
    with contextlib.suppress(OSError):
        write_back(process, 0, process.memory.size)
    for shared in process.shared:
        process.files.release(shared.file)
    process.shared.clear()
