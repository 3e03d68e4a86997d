"""Errors that a user can meet. Each has a stable code and the exit status that ``vm`` gives it.

Guest traps are not errors: they are :mod:`vm_core.engine` exits. Exit statuses follow docker, coreutils
``timeout`` and the shell, so that scripts which know those need learn nothing new.
"""

from __future__ import annotations

from vm_core.hints import ClassVar

__all__ = [
    "EXIT_FUEL",
    "EXIT_MEMORY",
    "EXIT_NOT_EXECUTABLE",
    "EXIT_NOT_FOUND",
    "EXIT_TIMEOUT",
    "EXIT_USAGE",
    "EXIT_VM",
    "CacheError",
    "ConfigError",
    "DecodeError",
    "EngineUnavailable",
    "GuestError",
    "HostError",
    "LoadError",
    "SpecError",
    "Unimplemented",
    "UsageError",
    "VmError",
]

EXIT_USAGE = 2
"""The command line or the configuration is wrong."""
EXIT_MEMORY = 122
"""The guest asked for more memory than ``--memory`` allows."""
EXIT_FUEL = 123
"""The guest retired exactly the ``--fuel`` budget and was stopped."""
EXIT_TIMEOUT = 124
"""The guest ran longer than ``--timeout`` (as coreutils ``timeout``)."""
EXIT_VM = 125
"""vm itself failed (as docker)."""
EXIT_NOT_EXECUTABLE = 126
"""The program was found but cannot be run (as the shell)."""
EXIT_NOT_FOUND = 127
"""The program was not found (as the shell)."""


class VmError(Exception):
    """Base of all errors: one line that says what is wrong and where, and a hint that says what to do."""

    code: ClassVar[str] = "VM000"
    exit_status: ClassVar[int] = EXIT_VM

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(VmError):
    """A wrong argument or combination of arguments."""

    code = "VM001"
    exit_status = EXIT_USAGE


class ConfigError(VmError):
    """A wrong key or value in a configuration file or an environment variable."""

    code = "VM002"
    exit_status = EXIT_USAGE


class SpecError(VmError):
    """A bad pattern or semantics in an ISA text, found when the module is imported or the text is traced."""

    code = "VM100"


class DecodeError(VmError):
    """Bytes that are no instruction of this ISA. ``pc`` is a guest address, ``data`` the bytes at it."""

    code = "VM101"

    def __init__(self, isa: str, pc: int, data: bytes) -> None:
        super().__init__(f"{isa}: no instruction at {pc:#x}: bytes {data.hex(' ')}")
        self.isa, self.pc, self.data = isa, pc, data


class Unimplemented(DecodeError):
    """A real instruction of the ISA that vm does not do yet."""

    code = "VM102"

    def __init__(self, isa: str, mnemonic: str, why: str, *, pc: int = 0, data: bytes = b"") -> None:
        super().__init__(isa, pc, data)
        self.args = (f"{isa}: {mnemonic} is not implemented: {why}",)
        self.mnemonic, self.why = mnemonic, why


class GuestError(VmError):
    """The guest's own fault, found before it runs."""

    code = "VM200"
    exit_status = EXIT_NOT_EXECUTABLE


class LoadError(GuestError):
    """A file that is no program for us. The message names the file, the offset and what is wrong there."""

    code = "VM201"


class HostError(VmError):
    """The host lacks something: memory, a system call, a permission."""

    code = "VM300"


class EngineUnavailable(VmError):
    """An engine or accelerator that cannot be used here; the message gives the reason."""

    code = "VM301"


class CacheError(VmError):
    """A cache file that must not be used: wrong owner, torn, or changed. The cache is then rebuilt."""

    code = "VM302"

    def __init__(self, message: str, *, hint: str = "", directory: str = "") -> None:
        super().__init__(message, hint=hint)
        self.directory = directory
        """Set if it is not one file's problem but that of its whole directory."""
