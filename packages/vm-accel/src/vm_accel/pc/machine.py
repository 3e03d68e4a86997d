"""A Linux machine around vCPUs of KVM: one thread for each vCPU, one for devices, one that cleans up behind them."""

from __future__ import annotations

import contextlib
import os
import queue as queues
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, cast

from vm_accel.closing import Closing
from vm_accel.console import Console
from vm_accel.errors import HypervisorError
from vm_accel.exits import FailEntry, Interrupted, Shutdown, ShutdownKind, Unknown
from vm_accel.interface import Feature, MachineConfig, MachineEvent, MachineState, VmConfig
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.kvm.kernel import request
from vm_accel.kvm.vcpu import KvmVcpu
from vm_accel.kvm.vm import KvmVm
from vm_accel.memory import PAGE, HostMemory
from vm_accel.pc import acpi, linux
from vm_accel.pc.block import Block
from vm_accel.pc.ram import DEVICES, Ram
from vm_accel.pc.streams import Entropy, Port, Uart, VirtioConsole
from vm_accel.pc.virtio import QUEUE_NOTIFY, Function, VirtioDevice
from vm_accel.x86 import X86Model
from vm_core.errors import UsageError

__all__ = ["COM1", "IOCTLS", "LINES", "PcMachine", "console_of"]

IOCTLS: Final = (request("KVM_RUN"), request("KVM_IRQ_LINE"))
"""What a machine asks of KVM once it runs."""

COM1: Final = 0x3F8
_COM1_LINE: Final = 4
LINES: Final = (16, 17, 18, 19, 20, 21, 22, 5, 6, 7, 10, 11)
"""Interrupt lines of virtio devices in order; there are no more devices."""
_BUTTON_LINE: Final = 23
_KEYBOARD, _RESET_CONTROL = 0x64, 0xCF9
_MTRR_DEFAULT, _MTRR_ON_WRITE_BACK = "msr.0x2ff", 1 << 11 | 6
_STOP_SECONDS: Final = 10.0


def console_of(command_line: str) -> str:
    """Which console is /dev/console: ``virtio`` if the last ``console=`` is an hvc, else ``serial``."""
    names = [word[len("console=") :] for word in command_line.split() if word.startswith("console=")]
    return "virtio" if names and names[-1].startswith("hvc") else "serial"


class _Bus:
    """Where the vCPUs' accesses go. Called by all of their threads at once: each device has a lock of its own."""

    def __init__(self, uart: Uart, devices: list[VirtioDevice], end: Callable[[ShutdownKind], None]) -> None:
        self._uart, self._devices, self._end = uart, devices, end

    def read(self, address: int, size: int) -> int:
        number, offset = divmod(address - DEVICES, PAGE)
        if 0 <= number < len(self._devices):
            return self._devices[number].read(offset, size)
        return ~0

    def write(self, address: int, size: int, value: int) -> None:
        number, offset = divmod(address - DEVICES, PAGE)
        if 0 <= number < len(self._devices):
            self._devices[number].write(offset, size, value)

    def port_in(self, port: int, size: int) -> int:
        if COM1 <= port < COM1 + 8:
            return self._uart.read(port - COM1) | ~0xFF
        if port == _KEYBOARD or port in (acpi.SLEEP_PORT, acpi.SLEEP_PORT + 1, acpi.RESET_PORT):
            return 0
        return ~0

    def port_out(self, port: int, size: int, value: int) -> None:
        if COM1 <= port < COM1 + 8:
            self._uart.write(port - COM1, value)
        elif port == acpi.SLEEP_PORT:
            if value & 0xFF == acpi.SLEEP_S5:
                self._end(ShutdownKind.OFF)
        elif (
            (port == acpi.RESET_PORT and value & 0xFF == acpi.RESET_VALUE)
            or (port == _KEYBOARD and value & 0xFF == 0xFE)
            or (port == _RESET_CONTROL and value & 4)
        ):
            self._end(ShutdownKind.RESET)


class _Board:
    """One boot: what exists from ``start`` until the machine is off. Made complete, or not at all."""

    def __init__(self, machine: PcMachine) -> None:
        config = machine.config
        self._machine = machine
        self._closing = contextlib.ExitStack()
        self.parked = 0
        with contextlib.ExitStack() as stack:
            memory = stack.enter_context(HostMemory(machine.memory_bytes, huge=True))
            self._ram = Ram(memory)
            self.poll = select.epoll()
            stack.callback(self.poll.close)
            hypervisor = stack.enter_context(Kvm())
            vm = stack.enter_context(hypervisor.create_vm(VmConfig(irqchip=True, pit=True, cpus=config.cpus)))
            self._handlers: dict[int, Callable[[], None]] = {}
            self._wake = self._event(stack)
            self._handlers[self._wake] = lambda: None
            self.poll.register(self._wake, select.EPOLLIN)
            functions = self._functions(stack)
            self._devices = [
                self._device(stack, vm, index, function) for index, function in enumerate(functions)
            ]
            self._vm = vm
            self._button = self._event(stack)
            vm.irqfd(self._button, _BUTTON_LINE)
            self.bus = _Bus(self._uart, self._devices, self.end)
            placed = tuple(
                acpi.Device(DEVICES + PAGE * index, LINES[index]) for index in range(len(self._devices))
            )
            self._ram.write(acpi.RSDP, acpi.tables(config.cpus, placed, (COM1, _COM1_LINE), _BUTTON_LINE))
            first = linux.load(
                self._ram, machine.kernel, config.initrd, config.command_line, machine.protocol
            )
            for guest, offset, size in self._ram.ranges():
                vm.map(guest, memory, offset=offset, size=size)
            model = _model(hypervisor)
            self.vcpus: list[KvmVcpu] = [vm.create_vcpu(model) for _ in range(config.cpus)]
            for vcpu in self.vcpus:
                vcpu[_MTRR_DEFAULT] = _MTRR_ON_WRITE_BACK
            self.vcpus[0].set_registers(first)
            self._closing = stack.pop_all()
        self._quit = False
        self.running_devices = threading.Thread(target=self._serve, name="vm-devices", daemon=True)

    @staticmethod
    def _event(stack: contextlib.ExitStack) -> int:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        stack.callback(os.close, fd)
        return fd

    def _functions(self, stack: contextlib.ExitStack) -> list[Function]:
        machine = self._machine
        port = Port(*machine._serial.theirs, self.poll)
        self._uart = Uart(port, lambda level: self._vm.set_irq(_COM1_LINE, level))
        hvc = Port(*machine._hvc.theirs, self.poll)
        self._handlers[port.reading] = self._handlers[port.writing] = self._uart.ready
        out: list[Function] = [VirtioConsole(hvc)]
        self._handlers[hvc.reading] = self._handlers[hvc.writing] = self._hvc_ready
        for disk in machine.config.disks:
            block = Block(disk)
            stack.callback(block.close)
            out.append(block)
        if machine.config.entropy:
            out.append(Entropy())
        return out

    def _hvc_ready(self) -> None:
        self._devices[0].work()

    def _device(self, stack: contextlib.ExitStack, vm: KvmVm, index: int, function: Function) -> VirtioDevice:
        """With an eventfd for its notifications, which then stop no vCPU, and one for its interrupt."""
        line, notified = self._event(stack), self._event(stack)
        vm.irqfd(line, LINES[index])
        device = VirtioDevice(self._ram, function, lambda: os.eventfd_write(line, 1))
        vm.ioeventfd(notified, DEVICES + PAGE * index + QUEUE_NOTIFY, 4)
        self.poll.register(notified, select.EPOLLIN)

        def work() -> None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(notified)
            device.work()

        self._handlers[notified] = work
        return device

    def _serve(self) -> None:
        """The thread of the devices."""
        try:
            self._uart.ready()
            while not self._quit:
                for fd, _events in self.poll.poll():
                    with self._machine._devices_may_run:
                        self._handlers[fd]()
        except BaseException as error:  # noqa: BLE001 - the machine fails, and says why
            if not self._quit:
                self.end(f"{type(error).__name__}: {error}")

    def run(self, vcpu: KvmVcpu) -> None:
        """The thread of one vCPU."""
        machine = self._machine
        try:
            while True:
                found = vcpu.run(self.bus)
                match found:
                    case Interrupted():
                        if not machine._may_go_on(self):
                            return
                    case Shutdown(kind, _code):
                        self.end(kind)
                    case FailEntry(code, reason, _raw):
                        self.end(f"vCPU {vcpu.index} at {vcpu['rip']:#x}: {reason} (code {code})")
                    case Unknown(reason, _raw):
                        self.end(f"vCPU {vcpu.index} at {vcpu['rip']:#x}: KVM exit {reason}")
                    case _:
                        self.end(f"vCPU {vcpu.index}: unexpected {type(found).__name__}")
        except BaseException as error:  # noqa: BLE001 - the machine fails, and says why
            self.end(f"vCPU {vcpu.index}: {error}")

    def end(self, why: ShutdownKind | str) -> None:
        """The guest is over: all vCPUs come out of their runs. The first reason counts. Any thread."""
        with self._machine._changed:
            if self._machine._ended is None:
                self._machine._ended = why
            self._machine._changed.notify_all()
        self.kick()

    def kick(self) -> None:
        for vcpu in self.vcpus:
            vcpu.kick()

    def press(self) -> None:
        os.eventfd_write(self._button, 1)

    def close(self) -> None:
        """All vCPUs' threads have ended."""
        self._quit = True
        os.eventfd_write(self._wake, 1)
        if self.running_devices.ident is not None:
            self.running_devices.join()
        # What the guest gave to its devices before it was off is done: writes to disks, last words.
        for device in self._devices:
            device.work()
        self._uart.ready()
        # What holds pieces of the guest's memory must be gone before the memory is.
        self._devices.clear()
        self._handlers.clear()
        self._closing.close()


def _model(hypervisor: Kvm) -> X86Model:
    """What KVM supports, as a guest: the bits for a hypervisor, and the deadline timer that the local APIC inside KVM has."""
    model = hypervisor.model()
    if Feature.KERNEL_MODE not in hypervisor.features and model.has("cx16"):
        # Linux's allocator uses cmpxchg16b, in ring 0, where the paravirtual flavour's emulator does not know it.
        model = model.without("cx16")
    return model.replaced(
        leaf._replace(ecx=leaf.ecx | 1 << 31 | 1 << 24) for leaf in model.leaves if leaf.function == 1
    )


class PcMachine(Closing):
    """See :class:`vm_accel.interface.Machine`. Made by ``KvmMachines.create``.

    ``console`` is what the command line makes /dev/console: the virtio console (``hvc``) or the ``serial`` port. Both are always
    there. When the guest is off, resets or crashes, the machine is STOPPED, and ``ended`` says which it was.
    """

    def __init__(self, config: MachineConfig, kernel: Path, memory_bytes: int, protocol: str) -> None:
        self.config, self.kernel, self.memory_bytes, self.protocol = config, kernel, memory_bytes, protocol
        self._serial, self._hvc = Console(), Console()
        self._state = MachineState.STOPPED
        self._ended: ShutdownKind | str | None = None
        self._board: _Board | None = None
        self._changed = threading.Condition()
        # Held by whoever pauses, so that a paused machine's devices do nothing either.
        self._devices_may_run = threading.Lock()
        self._events: queues.SimpleQueue[MachineEvent] = queues.SimpleQueue()
        self._closed = False
        self._reaper: threading.Thread | None = None

    # -- what there is to see --------------------------------------------------------------------------------------------

    @property
    def state(self) -> MachineState:
        return self._state

    @property
    def ended(self) -> ShutdownKind | None:
        """How the guest ended: OFF, RESET or TRIPLE_FAULT; None while it has not, was stopped from outside, or FAILED."""
        return self._ended if isinstance(self._ended, ShutdownKind) else None

    @property
    def console(self) -> BinaryIO:
        return self.hvc if console_of(self.config.command_line) == "virtio" else self.serial

    @property
    def serial(self) -> BinaryIO:
        """The 16550A at 0x3f8, ``ttyS0``."""
        return cast("BinaryIO", self._serial)

    @property
    def hvc(self) -> BinaryIO:
        """The virtio console, ``hvc0``."""
        return cast("BinaryIO", self._hvc)

    def wait(self, timeout: float | None = None) -> MachineEvent | None:
        try:
            return self._events.get(timeout=timeout)
        except queues.Empty:
            return None

    def _tell(self, state: MachineState, error: str = "") -> None:
        with self._changed:
            self._state = state
            self._events.put(MachineEvent(state, error))
            self._changed.notify_all()

    # -- changes of state ------------------------------------------------------------------------------------------------

    def _must_be(self, what: str, *states: MachineState) -> None:
        if self._closed:
            raise HypervisorError("the machine is closed")
        if self._state not in states:
            raise UsageError(f"{what} is not possible while the machine is {self._state.value}")

    def start(self, opened: Callable[[], None] | None = None) -> None:
        """``opened`` is called when all that the machine needs is open, and none of its threads are there yet: for who confines this
        process. What it raises, this does."""
        with self._changed:
            self._must_be("start", MachineState.STOPPED, MachineState.FAILED)
            self._tell(MachineState.STARTING)
        self._ended = None
        try:
            for console in (self._serial, self._hvc):
                console.reopen()
            board = _Board(self)
            if opened is not None:
                try:
                    opened()
                except BaseException:
                    board.close()
                    raise
        except BaseException as error:
            self._release()
            self._tell(MachineState.FAILED, str(error))
            raise
        self._board = board
        threads = [
            threading.Thread(target=board.run, args=(vcpu,), name=f"vm-cpu{vcpu.index}", daemon=True)
            for vcpu in board.vcpus
        ]
        reaper = threading.Thread(target=self._reap, args=(board, threads), name="vm-reaper", daemon=True)
        self._reaper = reaper
        self._tell(MachineState.RUNNING)
        board.running_devices.start()
        for thread in threads:
            thread.start()
        reaper.start()

    def _reap(self, board: _Board, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join()
        with self._changed:
            self._board = None  # from here on nobody else touches it
        try:
            board.close()
        except Exception as error:  # noqa: BLE001 - reported as the machine's failure
            self._ended = f"{type(error).__name__}: {error}"
        self._release()
        with self._changed:
            why = self._ended
            if isinstance(why, str) and why != "stop":
                self._tell(MachineState.FAILED, why)
            else:
                self._tell(MachineState.STOPPED)

    def _release(self) -> None:
        """Who reads a console gets to its end."""
        for console in (self._serial, self._hvc):
            console.release()

    def _may_go_on(self, board: _Board) -> bool:
        """Called by a vCPU's thread that was kicked: waits while the machine is paused. False: it is over."""
        with self._changed:
            board.parked += 1
            self._changed.notify_all()
            while self._ended is None and self._state in (MachineState.PAUSING, MachineState.PAUSED):
                self._changed.wait()
            board.parked -= 1
            return self._ended is None

    def pause(self) -> None:
        with self._changed:
            self._must_be("pause", MachineState.RUNNING)
            board = self._board
            if board is None:
                raise UsageError("pause is not possible: the guest is over")
            self._tell(MachineState.PAUSING)
            board.kick()
            while board.parked < len(board.vcpus) and self._ended is None:
                self._changed.wait()
            if self._ended is not None:
                raise HypervisorError("the guest ended while the machine was being paused", call="pause")
        # Behind the lock of the state, which a device that ends the guest takes while it has this one.
        self._devices_may_run.acquire()
        with self._changed:
            if self._ended is not None:
                self._devices_may_run.release()
                raise HypervisorError("the guest ended while the machine was being paused", call="pause")
            self._tell(MachineState.PAUSED)

    def resume(self) -> None:
        with self._changed:
            self._must_be("resume", MachineState.PAUSED)
            self._tell(MachineState.RESUMING)
            self._devices_may_run.release()
            self._tell(MachineState.RUNNING)

    def request_stop(self) -> None:
        with self._changed:
            self._must_be("request_stop", MachineState.RUNNING)
            if self._board is not None:
                self._board.press()

    def stop(self) -> None:
        with self._changed:
            self._must_be("stop", MachineState.RUNNING, MachineState.PAUSED)
            self._pull()
        self._join()

    def _pull(self) -> None:
        paused = self._state is MachineState.PAUSED
        self._tell(MachineState.STOPPING)
        if paused:
            self._devices_may_run.release()
        if self._board is not None:
            self._board.end("stop")

    def _join(self) -> None:
        if self._reaper is not None and self._reaper is not threading.current_thread():
            self._reaper.join(_STOP_SECONDS)
            if self._reaper.is_alive():
                raise HypervisorError("the machine does not stop: a disk access hangs", call="stop")

    def save(self, path: Path) -> None:
        """Raises UsageError: machines over KVM cannot be saved yet."""
        raise UsageError("machines over KVM cannot be saved", hint="save what matters inside the guest")

    def restore(self, path: Path) -> None:
        """Raises UsageError: machines over KVM cannot be saved yet."""
        raise UsageError("machines over KVM cannot be restored", hint="start the machine")

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            if self._state in (MachineState.RUNNING, MachineState.PAUSED):
                self._pull()
            self._closed = True
        self._join()
        self._serial.close()
        self._hvc.close()
