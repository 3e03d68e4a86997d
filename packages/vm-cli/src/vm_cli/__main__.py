"""``python -m vm_cli`` is ``vm``."""

from __future__ import annotations

from vm_cli.main import main

main()
