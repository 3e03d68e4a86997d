"""A guest in a process of its own, which is confined: what ``run(sandbox=...)`` does.

The caller's process must not be confined for ever for the sake of one guest. So a Python is started that has nothing of the
caller but the guest's streams; it reads from a pipe what to run, as JSON, and answers how that ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vm_core.engine import EngineStats
from vm_core.errors import HostError, UsageError, VmError
from vm_core.linux.paths import Bind
from vm_core.places import import_path
from vm_core.record import names

__all__ = ["run_in_child", "serve"]

_CHILD: Final = "import sys; sys.path[:] = sys.argv[3:]; from vm_core.linux.child import serve; serve(*map(int, sys.argv[1:3]))"
_LONGEST_ANSWER: Final = 1 << 16
"""Bytes: what a pipe takes without a reader."""
_PLAIN: Final = (str, int, float, bool, type(None))


def _as_json(name: str, value: object) -> Any:
    """A value that can be sent. Raises UsageError for one that belongs to the caller's process."""
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, Bind):
        return [value.host, value.guest, value.writable]
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, Mapping):
        return {key: _as_json(name, item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_json(name, item) for item in value]
    if isinstance(value, _PLAIN):
        return value
    raise UsageError(f"{name}: {value!r} cannot be used by a guest in a process of its own")


def run_in_child(
    level: str,
    streams: tuple[int | None, int | None, int | None],
    argv: Sequence[str | bytes],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Run with these options of :func:`vm_core.run`, confined at ``level``: the fields of its result but for the output.
    Raises VmError."""
    program = options["program"]
    words = {
        name: _as_json(name, value)
        for name, value in {"argv": argv, **options}.items()
        if value is not None and not (name == "program" and isinstance(program, bytes))
    }
    with contextlib.ExitStack() as held:

        def hold(fd: int) -> int:
            held.callback(os.close, fd)
            return fd

        passed = []
        if isinstance(program, bytes):
            passed.append(hold(_file(program)))
        spec = {
            "level": level,
            "options": words,
            "parent": os.getpid(),
            "program": passed[0] if passed else None,
        }
        passed.append(hold(_file(json.dumps(spec).encode())))
        answers, answering = os.pipe2(os.O_CLOEXEC)
        hold(answers)
        try:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _CHILD, str(passed[-1]), str(answering), *import_path()],
                stdin=streams[0], stdout=streams[1], stderr=streams[2], pass_fds=(*passed, answering),
            )  # fmt: skip
        except OSError as error:
            raise HostError(f"the guest's process cannot be started: {error.strerror}") from None
        finally:
            os.close(answering)
        try:
            status = child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise
        # Not to the end of the file: a process that the guest has left behind may hold the other end.
        os.set_blocking(answers, False)
        try:
            answer = os.read(answers, _LONGEST_ANSWER)
        except BlockingIOError:
            answer = b""
    return _understand(answer, status)


def _understand(answer: bytes, status: int) -> dict[str, Any]:
    try:
        found = json.loads(answer)
    except ValueError:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        hint = (
            "it made a call that the filter forbids: a hole in vm, please report it" if status == -31 else ""
        )
        raise HostError(f"the guest's process ended by {how}", hint=hint) from None
    if "error" in found:
        raise _kind(found["error"])(found["message"], hint=found["hint"])
    return {**found, "stats": EngineStats(**found["stats"])}


def _kind(name: str) -> type[VmError]:
    """The error of that name, if this process has it."""
    todo: list[type[VmError]] = [VmError]
    for kind in todo:
        if kind.__name__ == name:
            return kind
        todo += kind.__subclasses__()
    return VmError


def _file(data: bytes) -> int:
    fd = os.memfd_create("vm-child", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def serve(asked: int, answers: int) -> None:
    """The child: runs what it reads at descriptor ``asked``, and writes at ``answers`` how it ended."""
    with open(asked, "rb") as file:
        spec = json.loads(file.read())
    _die_with(spec["parent"])
    os.set_inheritable(answers, False)
    with open(answers, "wb") as sink:
        try:
            found = _run(spec)
        except VmError as error:
            # What a subclass adds to its message is in the message.
            kind = type(error).__name__ if type(error).__init__ is VmError.__init__ else "VmError"
            found = {"error": kind, "message": str(error), "hint": error.hint}
        with contextlib.suppress(BrokenPipeError):
            sink.write(json.dumps(found).encode()[:_LONGEST_ANSWER])
            sink.flush()
    os._exit(0)


def _run(spec: dict[str, Any]) -> dict[str, Any]:
    from vm_core.linux.confine import confine_process
    from vm_core.runner import run

    options = spec["options"]
    options["binds"] = [Bind(*bind) if isinstance(bind, list) else bind for bind in options.get("binds", ())]
    if spec["program"] is not None:
        with open(spec["program"], "rb") as file:
            options["program"] = file.read()
    walls: list[str] = []
    result = run(
        **options, prepared=lambda process: walls.extend(confine_process(process, level=spec["level"]))
    )
    kept = (
        "returncode",
        "exit_code",
        "signal",
        "reason",
        "message",
        "instructions",
        "system_calls",
        "peak_memory",
    )
    found = {name: getattr(result, name) for name in kept}
    stats = {name: getattr(result.stats, name) for name in names(EngineStats)}
    return {**found, "phases": result.phases, "walls": walls, "stats": stats}


def _die_with(parent: int) -> None:
    """The guest is not to outlive who asked for it."""
    import ctypes

    # SAFETY: PR_SET_PDEATHSIG takes a number.
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != parent:
        os._exit(1)
