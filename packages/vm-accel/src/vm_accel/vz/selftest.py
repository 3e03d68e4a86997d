"""``vm accel selftest --accel vz``: what can be found out on a Mac without a Linux of the user's.

Every message of the table is compared with the loaded frameworks, machines are made of every device, and on Apple silicon two
kernels of a few instructions are started: one that waits, to be paused and resumed, and one that turns its machine off.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from vm_accel.interface import Disk, MachineConfig, MachineState, Network, Share
from vm_accel.selftest import Outcome
from vm_accel.vz import table
from vm_accel.vz.backend import Vz, discrepancies, native
from vm_accel.vz.objc import Queue, runtime
from vm_core.errors import UsageError, VmError

__all__ = ["CODE", "image", "run"]

CODE: Final = {
    "wait": ("wfi; b 0x40", "7f2003d5ffffff17"),
    "off": (
        "movz w0, #0x8400, lsl #16; movk w0, #8; hvc #0; wfi; b 0x4c",
        "0080b05200018072020000d47f2003d5ffffff17",
    ),
}
"""Assembly at 0x40, and what keystone makes of it (a test compares them). 0x84000008 is PSCI's SYSTEM_OFF."""

_SECONDS: Final = 30.0


class _Failed(Exception):
    """A check that found something wrong."""


def image(code: str) -> bytes:
    """A kernel for arm64: the header of Documentation/arch/arm64/booting.rst, then code. It says that it is a bzImage, too, but
    does not run as one."""
    size = 0x1000
    head = struct.pack("<2I6Q4sI", 0x14000010, 0, 0, size, 0xA, 0, 0, 0, b"ARM\x64", 0)
    body = bytearray(head + bytes.fromhex(code)).ljust(size, b"\0")
    body[0x202:0x206] = b"HdrS"
    return bytes(body)


class Bench(NamedTuple):
    """Where a check works, and what it leaves for the record."""

    directory: Path
    contexts: list[dict[str, Any]]

    def kernel(self, name: str) -> Path:
        path = self.directory / f"kernel-{name}"
        path.write_bytes(image(CODE[name][1]))
        return path


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise _Failed(f"{what}: {found}, not {wanted}")


def _messages(bench: Bench) -> str:
    lines, newer = [], 0
    for line in discrepancies():
        if " is missing " in line:
            newer += 1  # on an old macOS; what needs them says so when it is asked for
        else:
            lines.append(line)
    bench.contexts.extend(
        {"message": f"{'+' if row.static else '-'}[{row.owner} {row.selector}]", "encoding": found}
        for row in table.methods()
        if (found := native(row)) is not None
    )
    if lines:
        raise _Failed("; ".join(lines))
    return f"{newer} are newer than this macOS" if newer else ""


def _queue(_: Bench) -> str:
    with Queue(runtime(), "vm.selftest") as queue:
        _expect("a call inside a call", queue.call(lambda _: queue.call(lambda _: queue.inside)), True)
        try:
            queue.call(lambda _: 1 // 0)
        except ZeroDivisionError:
            return ""
    raise _Failed("what was raised on the queue was lost")


def _devices(bench: Bench) -> str:
    disk = bench.directory / "disk"
    disk.write_bytes(bytes(1 << 20))
    config = MachineConfig(
        kernel=bench.kernel("wait"),
        disks=(Disk(disk, name="vm"), Disk(disk, read_only=True, caching="uncached", sync=False)),
        networks=(Network(), Network(mac="5a:94:ef:00:00:01")),
        shares=(Share("vm", bench.directory),),
        balloon=True,
        vsock=True,
    )
    with Vz().create(config) as machine:
        _expect("state", machine.state, MachineState.STOPPED)
        _expect("MAC address", machine.mac_addresses[1].lower(), "5a:94:ef:00:00:01")
        try:
            machine.pause()
        except UsageError:
            return ""
    raise _Failed("a stopped machine can be paused")


def _states(bench: Bench) -> str:
    with Vz().create(MachineConfig(kernel=bench.kernel("wait"))) as machine:
        machine.start()
        _expect("after start", machine.state, MachineState.RUNNING)
        machine.pause()
        _expect("after pause", machine.state, MachineState.PAUSED)
        machine.resume()
        _expect("after resume", machine.state, MachineState.RUNNING)
        machine.stop()
        _expect("after stop", machine.state, MachineState.STOPPED)
    return ""


def _saved(bench: Bench) -> str:
    kernel, saved = bench.kernel("wait"), bench.directory / "saved"
    with Vz().create(MachineConfig(kernel=kernel)) as machine:
        machine.start()
        machine.pause()
        machine.save(saved)
        identifier = machine.machine_identifier
    with Vz().create(MachineConfig(kernel=kernel, extra={"machine_identifier": identifier})) as machine:
        machine.restore(saved)
        _expect("after restore", machine.state, MachineState.PAUSED)
        machine.resume()
        _expect("after resume", machine.state, MachineState.RUNNING)
    return ""


def _off(bench: Bench) -> str:
    with Vz().create(MachineConfig(kernel=bench.kernel("off"))) as machine:
        machine.start()
        while event := machine.wait(_SECONDS):
            if event.state in (MachineState.STOPPED, MachineState.FAILED):
                _expect("the end", (event.state, event.error), (MachineState.STOPPED, ""))
                return ""
    raise _Failed(f"the guest is not off after {_SECONDS:.0f} s")


_CHECKS: Final[tuple[tuple[str, Callable[[Bench], str], bool], ...]] = (
    ("messages", _messages, False),
    ("queue", _queue, False),
    ("devices", _devices, False),
    ("states", _states, True),
    ("save and restore", _saved, True),
    ("guest turns itself off", _off, True),
)
"""Name, check, and whether its guest needs Apple silicon. A check returns what is worth saying, or raises."""


def run(backend: Vz) -> list[Outcome]:
    """Do every check that fits. Nothing is raised for one that fails."""
    out = []
    for name, check, runs_arm64 in _CHECKS:
        if runs_arm64 and backend.isa != "aarch64" and not backend.simulated:
            out.append(Outcome(name, "skipped", "the guest is of arm64"))
            continue
        result, message, contexts = "passed", "", list[dict[str, Any]]()
        with tempfile.TemporaryDirectory(prefix="vm-selftest-") as directory:
            try:
                message = check(Bench(Path(directory), contexts))
            except _Failed as error:
                result, message = "failed", str(error)
            except VmError as error:
                result, message = "failed", f"{error.code} {error}"
            except Exception as error:  # noqa: BLE001  a defect of ours is a result, too
                result, message = "failed", f"{type(error).__name__}: {error}"
        out.append(Outcome(name, result, message, tuple(contexts)))
    return out
