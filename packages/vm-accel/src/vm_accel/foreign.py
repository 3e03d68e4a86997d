"""cffi in ABI mode, for what has no layout of its own. Each binding has an FFI object for its structures."""

from __future__ import annotations

from typing import Any, Final

import cffi

__all__ = ["ffi"]

ffi: Final[Any] = cffi.FFI()
