"""Libraries of the platforms through cffi in ABI mode: how they are loaded, replaced by a simulator, and called."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import cffi

from vm_accel.errors import AcceleratorUnavailable, HypervisorError

__all__ = ["Library", "ffi", "loaded", "override"]

ffi: Final[Any] = cffi.FFI()
"""For what has no layout of its own. Each binding has an FFI object for its structures."""


class Library:
    """One library, with the declarations of ``ffi``."""

    lacking = ""
    """What helps where a function is not there."""

    def __init__(self, path: str, ffi: Any) -> None:
        self.path, self.ffi = path, ffi
        self.lib = ffi.dlopen(path)

    def check(self, name: str, status: int) -> None:
        """Raises HypervisorError if the function ``name`` returned a failure."""
        raise NotImplementedError

    def has(self, name: str) -> bool:
        """Whether this version of the library has a function."""
        return hasattr(self.lib, name)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function. Raises HypervisorError if it fails, or is not there."""
        try:
            function = getattr(self.lib, name)
        except AttributeError:
            raise HypervisorError(f"{self.path} has no {name}", call=name, hint=self.lacking) from None
        self.check(name, function(*arguments))


_Made = TypeVar("_Made", bound=Library)
_loaded: Final[dict[str, Any]] = {}


def _variable(name: str) -> str:
    return f"VM_{name.upper()}_LIBRARY"


def override(name: str) -> str:
    """The library that the environment names in the place of a platform's, or nothing."""
    return os.environ.get(_variable(name), "")


def loaded(name: str, make: Callable[[str], _Made], path: str, title: str, hint: str) -> _Made:
    """The library of the platform ``name`` (hvf, whpx), or its override; each is loaded once. Raises AcceleratorUnavailable with
    ``hint`` if the platform's own, called ``title``, cannot be loaded."""
    instead = override(name)
    place = instead or path
    try:
        if place not in _loaded:
            _loaded[place] = make(place)
    except OSError as error:
        raise AcceleratorUnavailable(
            f"{title} cannot be loaded: {error}",
            hint=f"{_variable(name)} must name a library" if instead else hint,
        ) from error
    found: _Made = _loaded[place]
    return found
