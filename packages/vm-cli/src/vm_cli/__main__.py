"""``python -m vm_cli`` is ``vm``."""

from __future__ import annotations

import sys

from vm_core.places import import_path

# -m puts the current directory first, where guests may leave modules for what is imported later.
sys.path[:] = import_path()

from vm_cli.main import main  # noqa: E402

main()
