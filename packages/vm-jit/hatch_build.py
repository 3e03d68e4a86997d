"""Build hook: the wheel brings the interpreters as machine code, so that no first run waits for LLVM.

They are made from the same texts, by the same code (:mod:`vm_jit.prebuilt`), as a first run would. Where that cannot be done
(no llvmlite, another processor than x86-64, no vm-core beside this package) the wheel comes without, and the interpreter is
built at first use.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Prebuilt(BuildHookInterface[Any]):
    """``VM_PREBUILT=0`` turns it off."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or os.environ.get("VM_PREBUILT") == "0":
            return
        if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
            return
        root = Path(self.root)
        # First what lies beside: an installed vm-jit is another text.
        sys.path[:0] = [str(root / "src"), str(root.parent / "vm-core" / "src")]
        sys.dont_write_bytecode = True
        try:
            import llvmlite  # noqa: F401

            from vm_core import isa
            from vm_jit import prebuilt
        except ImportError as error:
            self.app.display_warning(f"the wheel comes without prebuilt code: {error}")
            return
        self._place = tempfile.TemporaryDirectory()
        for name, data in prebuilt.files([isa.get(name) for name in isa.NAMES]):
            path = Path(self._place.name, name)
            path.write_bytes(data)
            build_data["force_include"][str(path)] = f"vm_jit/{prebuilt.DIRECTORY}/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        place = getattr(self, "_place", None)
        if place is not None:
            place.cleanup()
