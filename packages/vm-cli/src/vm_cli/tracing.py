"""What ``vm run --strace`` and ``--trace`` and their companions ask for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vm_cli.settings import Settings
    from vm_core.instructions import InstructionTrace
    from vm_core.linux.strace import Strace

__all__ = ["strace_of", "trace_of"]


def strace_of(settings: Settings) -> Strace | None:
    """How system calls are to be shown; None if they are not."""
    if settings.strace is False:
        return None
    from vm_core.linux.strace import Strace

    times = set(settings.strace_times)
    output = settings.strace_output
    return Strace(
        output=None if output is None else output.replace("%d", str(os.getpid())),
        filter=settings.strace if isinstance(settings.strace, str) else "",
        strings=settings.strace_strings,
        stamps=next((word for word in ("r", "ttt", "tt", "t") if word in times), ""),
        durations="T" in times,
        status=settings.strace_status,
        summary=settings.strace_summary or "",
        follow=settings.strace_follow,
        separately=settings.strace_each,
        json=settings.strace_json,
    )


def trace_of(settings: Settings) -> InstructionTrace | None:
    """Which instructions are to be shown; None if none are."""
    if settings.trace is False:
        return None
    from vm_core.instructions import InstructionTrace

    output = settings.trace_output
    return InstructionTrace(
        output=None if output is None else output.replace("%d", str(os.getpid())),
        start=settings.trace_start or "",
        count=settings.trace_count,
        ranges=tuple(settings.trace.split(",")) if isinstance(settings.trace, str) else (),
        json=settings.trace_json,
    )
