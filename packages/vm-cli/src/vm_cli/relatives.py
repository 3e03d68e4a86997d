"""The profiles of a guest's other programs: those that its process goes on as, and those of its child processes.

A child is another host process; what it sampled it leaves, with the names that addresses have there, in memory that all share.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from vm_core.linux.objects import Objects

if TYPE_CHECKING:
    from vm_cli.profile import Functions, Profile
    from vm_core.linux.process import Process
    from vm_jit.profiler import Profiler

__all__ = ["Relatives"]


class Relatives:
    """``functions`` are those of the first program; ``profile`` is where the first process's samples go; ``call`` gives the name of
    a system call, ``empty`` a profile for a child."""

    def __init__(
        self,
        profiler: Profiler,
        profile: Profile,
        functions: Functions,
        call: Callable[[int], str],
        empty: Callable[[], Profile],
    ) -> None:
        self._profiler, self._profile, self._functions = profiler, profile, functions
        self._call, self._empty = call, empty
        self._first = os.getpid()
        self._process: Process | None = None
        self._program: object = None
        self._told = 0.0
        self._post = os.memfd_create("vm-profile", os.MFD_CLOEXEC)
        fcntl.fcntl(self._post, fcntl.F_SETFL, os.O_APPEND)

    def watch(self, process: Process) -> None:
        """The process, before it runs anything."""
        self._process, self._program = process, process.program
        process.over.append(self._over)

    def name(self, pc: int) -> str:
        """The function at a guest address of the program that runs now."""
        process = self._process
        if process is None or process.program is self._program:
            return self._functions.name(pc)
        for image in (process.image, process.interpreter):
            if image is not None and image.start <= pc < image.end:
                return f"{image.symbols.name(pc).partition('+0x')[0] or '?'} ({os.path.basename(image.name)})"
        region = next((one for one in reversed(process.memory.code_files) if one.start <= pc < one.end), None)
        if region is None:
            return f"{pc:#x}"
        found = Objects(process.files.namespace, process.isa.name) if self._objects is None else self._objects
        self._objects = found
        name = found.symbols(region).name(pc)
        return f"{name.partition('+0x')[0] or '?'} ({os.path.basename(region.name)})"

    _objects: Objects | None = None

    def _over(self) -> None:
        """A program is over."""
        process = self._process
        assert process is not None
        self._functions.add_objects(process.memory.code_files)
        first = os.getpid() == self._first
        profile = self._profile if first else self._empty()
        profile.take(self._profiler.drain(), self.name, self._call)
        self._objects = None
        if first:
            return
        now = time.process_time()
        document = {
            "pid": process.pid,
            "program": process.comm,
            "cpu": now - self._told,
            "stacks": [[list(stack), seconds] for stack, seconds in profile.stacks.items()],
            "calls": profile.calls,
            "samples": profile.samples,
        }
        self._told = now
        data = json.dumps(document).encode() + b"\n"
        os.write(self._post, data)

    def found(self) -> Iterator[dict[str, Any]]:
        """What the children have left."""
        size = os.fstat(self._post).st_size
        for line in os.pread(self._post, size, 0).splitlines():
            yield json.loads(line)
        os.close(self._post)
