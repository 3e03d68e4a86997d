"""BLAKE2b, the hash of everything in the cache.

PERF: :mod:`hashlib` loads OpenSSL at import, 4 ms of each start, for hashes that are not used here.
"""

from __future__ import annotations

try:
    from _blake2 import blake2b
except ImportError:  # another Python than CPython, or one built without it
    from hashlib import blake2b

__all__ = ["blake2b"]
