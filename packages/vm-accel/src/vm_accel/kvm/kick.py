"""Getting a thread out of KVM_RUN: the signal, and which thread it goes to.

The protocol, of which every step is needed (Documentation/virt/kvm/api.rst, 5, ``immediate_exit``):

* who kicks sets ``immediate_exit``, then sends the signal to the thread that is inside ``run``, if any;
* KVM looks at ``immediate_exit`` when it enters, and at signals when it is in: a kick before the ioctl and one after are both seen;
* a signal that comes too late (the ioctl returned for another reason) does nothing: its handler is empty, and the next ioctl
  sees ``immediate_exit``;
* only the runner clears ``immediate_exit``, when it returns Interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any, Final

from vm_accel.errors import HypervisorError
from vm_accel.kvm.kernel import ffi
from vm_core.errors import HostError
from vm_core.linux.hostthread import kick_signal

__all__ = ["enter", "here", "install", "send"]

_TGKILL: Final = 234 if sys.maxsize > 2**32 and os.uname().machine == "x86_64" else 131
_number = 0
_library: Any = None


def install() -> int:
    """Make the signal ready, once in a process, and return its number: vm_core's own, which ends a call of the host in its thread, and
    of which neither Python's signal machinery nor the main thread hears."""
    global _number, _library
    if not _number:
        try:
            number = kick_signal()
        except HostError as error:
            raise HypervisorError(str(error), call="signal", hint=error.hint or "") from error
        _number, _library = number, ffi.dlopen(None)
    return _number


def send(thread: int) -> None:
    """Wake the kernel's thread of this number in this process; nothing if it has ended meanwhile."""
    # SAFETY: tgkill takes three integers; a thread number that was given to a new thread gets an empty handler's signal.
    _library.syscall(_TGKILL, os.getpid(), thread, _number)


here: Final = threading.local()
"""``here.number`` is the calling thread's, once :func:`enter` has made it ready. PERF: a subclass is slower to read from."""


def enter() -> int:
    """Make the calling thread ready for kicks, once for each: it takes the signal (a new thread may have inherited a full mask).
    Returns its number."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [install()])
    here.number = number = threading.get_native_id()
    return number


def _forked() -> None:
    if hasattr(here, "number"):
        here.number = threading.get_native_id()


os.register_at_fork(after_in_child=_forked)
