"""For all tests: what they need of the host, and that signals mean what they mean in a terminal.

A shell that starts a job in the background lets it ignore SIGINT, nohup does so with SIGHUP, and what they start inherits
that. Python then never raises KeyboardInterrupt, vm respects the others, and tests of them would wait for ever.
"""

from __future__ import annotations

import shutil
import signal

import pytest


@pytest.fixture
def cross_compiler() -> str:
    """The path of the host's C compiler and C library for riscv64; the test is skipped where there is none."""
    found = shutil.which("riscv64-linux-gnu-gcc")
    if found is None:
        pytest.skip("riscv64-linux-gnu-gcc is not installed")
    return found


for _number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
