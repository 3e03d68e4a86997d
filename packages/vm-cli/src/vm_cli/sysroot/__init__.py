"""Trees of another machine's Linux, made of Debian packages: ``vm sysroot``.

Nothing here knows a guest or runs one. The way of a package, a module each:

* :mod:`~vm_cli.sysroot.mirror` finds the archive, checks its signature and reads the index of a suite;
* :mod:`~vm_cli.sysroot.control` is Debian's own format: stanzas, versions, relations between packages;
* :mod:`~vm_cli.sysroot.resolve` chooses the packages;
* :mod:`~vm_cli.sysroot.download` brings and keeps them;
* :mod:`~vm_cli.sysroot.deb` opens one, :mod:`~vm_cli.sysroot.tree` writes what is in it, and nothing outside of its directory;
* :mod:`~vm_cli.sysroot.settle` does what people miss when no maintainer script has run, and keeps dpkg's database;
* :mod:`~vm_cli.sysroot.commands` puts these together.

Whatever comes from the network is hostile until its checksum is right, and the contents of a package stay so after it.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ARCHITECTURES"]

ARCHITECTURES: Final = {"riscv64": "riscv64", "aarch64": "arm64", "x86_64": "amd64"}
"""Debian's names of the ISAs that vm has."""
