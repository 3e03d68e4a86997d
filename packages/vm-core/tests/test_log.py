from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from vm_core.log import Log, configure


def test_messages_go_to_the_logger(caplog: pytest.LogCaptureFixture):
    logging.getLogger("vm").propagate = True
    Log("vm.test").warning("%s bytes", 3)
    try:
        raise ValueError("why")
    except ValueError:
        Log("vm.test").exception("failed")
    assert [record.getMessage() for record in caplog.records] == ["3 bytes", "failed"]
    assert caplog.records[1].exc_info is not None


def test_configure_runs_at_once_where_logging_is_loaded():
    calls: list[int] = []
    configure(lambda: calls.append(1))
    assert calls == [1]


def test_logging_is_loaded_by_the_first_message():
    code = """
import sys
from vm_core.log import Log, configure
log, calls = Log("vm.x"), []
configure(lambda: calls.append(1))
assert "logging" not in sys.modules and not calls
log.warning("one")
log.warning("two")
assert calls == [1]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "one\ntwo\n"
