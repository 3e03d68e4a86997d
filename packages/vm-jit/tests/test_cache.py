"""The cache never hands out what it was not given: torn writes, bit flips, wrong owners, links."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from vm_core import places
from vm_core.errors import CacheError
from vm_core.places import ZONE
from vm_jit.cache import SUFFIX, Cache, warn


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = Cache(tmp_path / "cache")
    made.write("one", {"answer": b"42", "code": b"code" * 100})
    return made


def file(cache: Cache, name: str = "one") -> Path:
    return cache.directory / (name + SUFFIX)


def test_gives_back_what_was_written(cache: Cache) -> None:
    assert cache.read("one") == {"answer": b"42", "code": b"code" * 100}
    assert cache.read("two") is None
    assert Cache(cache.directory / "absent").read("one") is None


def test_belongs_to_its_owner_alone(cache: Cache) -> None:
    assert cache.directory.stat().st_mode & 0o077 == 0
    assert file(cache).stat().st_mode & 0o077 == 0


def test_every_bit_flip_is_found(cache: Cache) -> None:
    good = file(cache).read_bytes()
    rng = random.Random(1)
    for at in [*range(60), *rng.sample(range(len(good)), 60)]:
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        file(cache).write_bytes(bad)
        with pytest.raises(CacheError):
            cache.read("one")


def test_every_torn_length_is_found(cache: Cache) -> None:
    good = file(cache).read_bytes()
    for size in [*range(60), *range(60, len(good), 37)]:
        file(cache).write_bytes(good[:size])
        with pytest.raises(CacheError, match="torn"):
            cache.read("one")


def test_refuses_files_that_others_can_write(cache: Cache) -> None:
    file(cache).chmod(0o666)
    with pytest.raises(CacheError, match="written by others"):
        cache.read("one")


def test_refuses_a_directory_that_others_can_write(cache: Cache) -> None:
    cache.directory.chmod(0o777)
    with pytest.raises(CacheError, match="written by others"):
        cache.read("one")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_refuses_another_owner(cache: Cache) -> None:
    os.chown(file(cache), 12345, 12345)
    with pytest.raises(CacheError, match="belongs to user 12345"):
        cache.read("one")


def test_does_not_follow_links(cache: Cache) -> None:
    file(cache).rename(cache.directory / "elsewhere")
    file(cache).symlink_to(cache.directory / "elsewhere")
    with pytest.raises(CacheError):
        cache.read("one")


def test_lists_verifies_and_clears(cache: Cache) -> None:
    cache.write("two", {"x": b"x"})
    file(cache, "two").write_bytes(b"nonsense" * 20)
    assert {entry.name: entry.valid for entry in cache.entries()} == {"one": True, "two": False}
    assert [entry.name for entry in cache.verify()] == ["two"]
    assert [entry.name for entry in cache.entries()] == ["one"]
    assert cache.prune(10**9) == 0
    assert cache.prune(0) > 0
    assert cache.clear() == 0


def test_an_unusable_directory_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="not a directory|cannot write"):
        Cache(tmp_path / "file").write("one", {})


def test_killed_writers_leave_the_old_file_or_the_new(cache: Cache) -> None:
    """Writers killed at random moments: every read afterwards is one of the whole versions."""
    script = (
        "import sys\nfrom vm_jit.cache import Cache\nc = Cache(sys.argv[1])\nprint('go', flush=True)\n"
        "n = 0\nwhile True:\n    n += 1\n    c.write('one', {'n': bytes([n % 256]), 'x': bytes([n % 256]) * 200_000})\n"
    )
    rng = random.Random(7)
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(cache.directory)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                process.wait(rng.random() * 0.15)
            except subprocess.TimeoutExpired:
                process.kill()
        found = cache.read("one")
        assert found is not None
        assert "n" not in found or found["x"] == bytes(found["n"]) * 200_000


def test_the_problem_of_a_directory_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file")
    for name in ("one", "two"):
        with pytest.raises(CacheError) as caught:
            cache.write(name, {})
        warn(f"{name} is not cached", caught.value)
    assert [record.getMessage() for record in caplog.records] == [
        f"compiled code is not kept: {tmp_path}/file is not a directory (remove it, or set VM_CACHE_DIR)"
    ]
    caplog.clear()
    for _ in range(2):  # a file's own problem is always said
        warn("one is not used", CacheError("one is torn"))
    assert [record.getMessage() for record in caplog.records] == ["one is not used: one is torn"] * 2


def test_a_fifo_in_place_of_a_file_is_not_waited_for(cache: Cache) -> None:
    file(cache).unlink()
    os.mkfifo(file(cache), 0o600)
    with pytest.raises(CacheError, match="not a file"):
        cache.read("one")


def test_a_confined_process_keeps_code_in_its_zone(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it finds may be anyone's who is trusted, or its own; what it leaves is found by its own kind alone."""
    monkeypatch.setattr(places, "_zone", "")
    zones = [str(cache.directory / f"{ZONE}{name}") for name in ("first", "second")]
    before = file(cache).read_bytes()
    places.enter_cache_zone(zones[0])
    assert cache.read("one") == {"answer": b"42", "code": b"code" * 100}
    cache.write("one", {"answer": b"43"})
    cache.write("two", {"answer": b"44"})
    assert cache.read("one") == {"answer": b"43"}
    assert Path(zones[0]).stat().st_mode & 0o077 == 0
    places.enter_cache_zone(zones[1])
    assert cache.read("one") == {"answer": b"42", "code": b"code" * 100}
    assert cache.read("two") is None
    places.enter_cache_zone("")
    assert cache.read("two") is None
    assert file(cache).read_bytes() == before
    assert [entry.name for entry in cache.entries()] == ["one", f"{ZONE}first/one", f"{ZONE}first/two"]
    torn = Path(zones[0]) / f"two{SUFFIX}"
    torn.write_bytes(torn.read_bytes()[:-1])
    assert [entry.name for entry in cache.verify()] == [f"{ZONE}first/two"]
    assert not torn.exists()
    assert cache.clear() == 2
    assert list(cache.directory.iterdir()) == []


def test_a_zone_that_others_can_write_is_not_used(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = cache.directory / f"{ZONE}open"
    zone.mkdir()
    zone.chmod(0o777)
    monkeypatch.setattr(places, "_zone", str(zone))
    for attempt in (lambda: cache.read("one"), lambda: cache.write("one", {})):
        with pytest.raises(CacheError, match="can be written by others"):
            attempt()
