"""Write docs/support.md from what tox ran: one row for each environment, with its Python and its counts.

    tox -m all --result-json build/tox.json
    python tools/support.py build/tox.json

Nothing is listed that was not run; an environment that tox skipped (no such Python here) is named as not run.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_PYTHON = re.compile(r"^platform \S+ -- Python (\S+),", re.MULTILINE)
_COUNTS = re.compile(r"^=+ (.*?) in [0-9.]+s.* =+$|^(\d+ passed.*?) in [0-9.]+s", re.MULTILINE)

HEAD = """# Support

Made by `tools/support.py` from what tox reported (`--result-json`); nothing is listed that was not run.

"""


def row(name: str, facts: dict[str, Any]) -> str:
    """One line of the table."""
    result = facts["result"]
    if result.get("skipped"):
        return f"| {name} | | not run: no such Python there |"
    output = "\n".join(step.get("output", "") for step in facts.get("test", []))
    python = _PYTHON.search(output)
    counts = [first or second for first, second in _COUNTS.findall(output)]
    verdict = "passes" if result["success"] else "**fails**"
    return f"| {name} | {python[1] if python else ''} | {verdict}{': ' + counts[-1] if counts else ''} |"


def page(report: dict[str, Any]) -> str:
    """The whole page."""
    ran = {name: facts for name, facts in report["testenvs"].items() if facts.get("result")}
    libc = " ".join(platform.libc_ver())
    lines = [
        f"Host: {platform.system()} on {platform.machine()}, {libc}.",
        "",
        "| environment | Python | result |",
        "|---|---|---|",
    ]
    lines += [row(name, facts) for name, facts in sorted(ran.items())]
    lines += [
        "",
        "`-lowest` has the oldest dependencies that are admitted. Other hosts are not tested: guests use the host's",
    ]
    lines += [
        "Linux system calls, and native engines exist for x86-64; elsewhere the reference executor is what remains."
    ]
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    (ROOT / "docs/support.md").write_text(page(report), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
