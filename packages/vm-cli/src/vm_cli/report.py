"""How ``vm`` speaks: one line for each error, in colour on a terminal, and never a traceback unless it is asked for."""

from __future__ import annotations

import os
import sys

from vm_core.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_VM, VmError
from vm_core.hints import TextIO

__all__ = ["colour", "error_line", "note", "printable", "show_error", "show_unexpected"]

_RED, _YELLOW, _CYAN, _PLAIN = "\x1b[1;31m", "\x1b[1;33m", "\x1b[36m", "\x1b[0m"


def colour(stream: TextIO) -> bool:
    """Whether to colour what goes to ``stream`` (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def printable(text: str) -> str:
    """``text`` on one line: a file's name must not be able to move the cursor or forge a second line."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


def error_line(code: str, message: str, hint: str = "", *, paint: bool = False) -> str:
    """``vm: error[VM201]: message`` and, if there is one, the hint on a line of its own."""
    red, cyan, plain = (_RED, _CYAN, _PLAIN) if paint else ("", "", "")
    line = f"vm: {red}error[{code}]{plain}: {printable(message)}"
    return f"{line}\n  {cyan}hint{plain}: {printable(hint)}" if hint else line


def _write(text: str) -> None:
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # standard error is closed: the exit status still says it


def note(message: str) -> None:
    """One line that is no error."""
    yellow, plain = (_YELLOW, _PLAIN) if colour(sys.stderr) else ("", "")
    _write(f"vm: {yellow}note{plain}: {printable(message)}")


def show_error(error: VmError | OSError) -> int:
    """Print an error that a user can cause; returns the exit status for it."""
    if isinstance(error, VmError):
        code, status, message, hint = error.code, error.exit_status, str(error), error.hint
    else:
        name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes, os.PathLike)) else ""
        message = f"{name}: {error.strerror or error}" if name else str(error.strerror or error)
        code, status, hint = "VM300", EXIT_VM, ""
        if isinstance(error, FileNotFoundError):
            status = EXIT_NOT_FOUND
        elif isinstance(error, (PermissionError, IsADirectoryError)):
            status = EXIT_NOT_EXECUTABLE
    _write(error_line(code, message, hint, paint=colour(sys.stderr)))
    return status


def show_unexpected(error: BaseException) -> int:
    """Print a defect of vm itself; with VM_TRACEBACK=1 the traceback too."""
    if os.environ.get("VM_TRACEBACK") == "1":
        import traceback

        _write("".join(traceback.format_exception(error)).rstrip())
    hint = "this is a defect of vm; VM_TRACEBACK=1 shows where, please report it"
    _write(error_line("VM999", f"{type(error).__name__}: {error}", hint, paint=colour(sys.stderr)))
    return EXIT_VM
