"""strace(1) for guests: a line, a JSON document or an event for each system call, signal and exit.

Handlers are wrapped only when a trace is asked for; engines then answer no system call themselves. Without one, nothing of
this package is even loaded.

* names.py       the names of constants
* values.py      decoders of numbers, strings and simple pointers
* structs.py     decoders of structures; sockets.py those of sockets
* signatures.py  what the arguments of each call are; classes of calls
* filters.py     which calls are traced
* output.py      lines of many threads and processes in one place
* tracer.py      what is told, and when
* summary.py     the table of calls, errors and time
"""

from __future__ import annotations

from vm_core.linux.strace.tracer import Strace, TraceEvent, Tracer

__all__ = ["Strace", "TraceEvent", "Tracer"]
