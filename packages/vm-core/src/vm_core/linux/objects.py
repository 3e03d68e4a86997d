"""Names for guest addresses in the shared objects that a guest has mapped, for messages and profiles."""

from __future__ import annotations

import os

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.vdso import vdso_of
from vm_core.loader import Symbols, bias_of, symbols_of
from vm_core.memory import Prot, Region

if TYPE_CHECKING:
    from vm_core.linux.paths import Namespace

__all__ = ["Objects"]

_VDSO: Final = "[vdso]"


class Objects:
    """Reads the symbols of mapped files, each file once, by the guest's own paths."""

    def __init__(self, namespace: Namespace, isa: str) -> None:
        self._namespace, self._isa = namespace, isa
        self._known: dict[tuple[str, int], Symbols] = {}

    def symbols(self, region: Region) -> Symbols:
        """The names in the object of which ``region`` is a part; none if its file is not there any more."""
        key = region.name, region.start - region.offset
        if key not in self._known:
            self._known[key] = self._read(region)
        return self._known[key]

    def name(self, region: Region, address: int) -> str:
        """``strlen+0x4 in libc.so.6``, or ``libc.so.6+0x7b3c4`` if no symbol is there; empty for what is no file."""
        if not region.name or (region.name[0] == "[" and region.name != _VDSO):
            return ""
        symbol = self.symbols(region).name(address)
        file = os.path.basename(region.name)
        return f"{symbol} in {file}" if symbol else f"{file}+{address - region.start + region.offset:#x}"

    def _read(self, region: Region) -> Symbols:
        if region.name == _VDSO:
            vdso = vdso_of(self._isa)
            return Symbols() if vdso is None else symbols_of(vdso.data, region.start)
        try:
            with self._namespace.walk("/", region.name) as place:
                if place.node is not None or place.mount is None:
                    return Symbols()
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                fd = os.open(place.name, flags, dir_fd=place.fd)
        except OSError:
            return Symbols()
        try:
            info, backing = os.fstat(fd), region.backing
            if backing is not None and (info.st_dev, info.st_ino) != (backing.device, backing.inode):
                return Symbols()  # another file has the name now
            executable = bool(region.prot & Prot.EXEC)
            bias = bias_of(fd, region.start, region.offset, executable=executable)
            return Symbols() if bias is None else symbols_of(fd, bias)
        finally:
            os.close(fd)
