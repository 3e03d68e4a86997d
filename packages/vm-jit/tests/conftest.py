"""One cache of interpreters for all tests of a session: building one takes a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
