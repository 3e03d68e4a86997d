"""For all tests: Ctrl-C must mean what it means in a terminal.

A shell that starts a job in the background lets it ignore SIGINT, and what it starts inherits that; Python then never
raises KeyboardInterrupt, and tests of Ctrl-C would wait for ever.
"""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
