"""A guest's directory, and what lies beside it, which the guest must neither see nor touch."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

__all__ = ["ENTRY", "SECRET", "Scene", "snapshot"]

SECRET: Final = b"what-the-guest-must-not-see"
"""The contents of files outside."""
ENTRY: Final = "entry-the-guest-must-not-see"
"""A name outside."""


def snapshot(path: Path) -> dict[str, object]:
    """Everything about what lies below a directory but the times of reading."""
    out: dict[str, object] = {}
    for base, directories, files in os.walk(path):
        for name in (".", *directories, *files):
            full = os.path.join(base, name)
            info = os.lstat(full)
            content = Path(full).read_bytes() if stat.S_ISREG(info.st_mode) else b""
            out[full] = (
                info.st_mode,
                info.st_uid,
                info.st_nlink,
                info.st_mtime_ns,
                info.st_ctime_ns,
                content,
            )
    return out


class Scene:
    """``inside`` is for the guest, and empty; ``outside`` has files and a directory; both are in ``place``."""

    def __init__(self, place: Path) -> None:
        self.inside, self.outside = place / "inside", place / "outside"
        self.inside.mkdir()
        self.outside.mkdir()
        for name in (ENTRY, "secret"):
            (self.outside / name).write_bytes(SECRET)
        (self.outside / "secret").chmod(0o755)
        (self.outside / "empty").mkdir()
        self.accept()

    def accept(self) -> None:
        """What is outside is as it should be."""
        self.before = snapshot(self.outside)

    @property
    def touched(self) -> bool:
        """Whether anything outside has changed since."""
        return snapshot(self.outside) != self.before
