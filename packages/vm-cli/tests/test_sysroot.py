"""``vm sysroot`` against an archive of a few packages, made here: nothing leaves this machine."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vm_cli.sysroot import commands, mirror
from vm_cli.sysroot.commands import MARKER, Choices
from vm_cli.sysroot.download import Fetcher, Missing, Store, Wanted, redacted
from vm_cli.sysroot.errors import MirrorError, PackageError, StaleError, SysrootError, VerificationError
from vm_cli.sysroot.mirror import Mirror, read_apt
from vm_cli.sysroot.progress import Quiet
from vm_core.errors import UsageError, VmError

from .debian_archive import Archive, Server, entry, gpg, serving
from .test_commands import one_error, vm

DASH = "update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    root = tmp_path / "archive"
    root.mkdir()
    with serving(root) as found:
        yield found


@pytest.fixture
def archive(server: Server) -> Archive:
    """A suite of a base system and a program, not signed."""
    made = Archive(server.root)
    made.add(
        "base-files",
        essential="yes",
        pre_depends="awk",
        files=[entry("./bin", link="usr/bin"), entry("./etc/", mode=0o755)],
    )
    made.add(
        "mawk",
        provides="awk",
        files=[entry("./usr/bin/mawk", b"awk")],
        scripts={"postinst": DASH},
        priority="required",
    )
    made.add(
        "libfoo1",
        "2:1.0-1",
        multi_arch="same",
        files=[entry("./lib/"), entry("./lib/libfoo.so.1", b"foo")],
        pack=".gz",
    )
    made.add(
        "prog", depends="libfoo1 (>= 2:1.0~)", recommends="extra", architecture="all",
        files=[entry("./bin/prog", b"#!", mode=0o755), entry("./etc/prog.conf", b"conf")],
        scripts={"conffiles": "/etc/prog.conf\n", "postinst": "exit 0\n"},
    )  # fmt: skip
    made.add("extra", pack="")
    made.release()
    return made


def environ(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"VM_CONFIG": "", "VM_CACHE_DIR": str(tmp_path / "cache"), **more}


def create(tmp_path: Path, server: Server, *names: str, **options: Any) -> dict[str, Any]:
    choices = Choices(
        mirror=server.url,
        check_signature=options.pop("check_signature", False),
        **{
            key: options.pop(key)
            for key in ("suites", "keyring", "recommends", "components")
            if key in options
        },
    )
    progress = options.pop("progress", Quiet())
    isa, output = options.pop("isa", "riscv64"), str(tmp_path / options.pop("output", "tree"))
    return commands.create(isa, output, names, choices, progress, environ=environ(tmp_path), **options)


def add(tmp_path: Path, *names: str, **options: Any) -> dict[str, Any]:
    choices = Choices(check_signature=False, **options)
    return commands.add(str(tmp_path / "tree"), names, choices, Quiet(), environ=environ(tmp_path))


# -- a tree -----------------------------------------------------------------------------------------------------------


def test_create(tmp_path: Path, server: Server, archive: Archive) -> None:
    found = create(tmp_path, server, "prog")
    tree = tmp_path / "tree"
    assert [row["name"] for row in found["packages"]] == ["base-files", "libfoo1", "mawk", "prog"]
    assert (found["suite"], found["architecture"], found["complete"], found["asked"]) == (
        "trixie",
        "riscv64",
        True,
        ["prog"],
    )
    assert found["scripts_not_run"] == 2
    assert found["fetched_bytes"] > 0
    for name in ("bin", "sbin", "lib"):
        assert (tree / name).readlink() == Path(f"usr/{name}")
    assert not (tree / "lib64").exists()
    assert (tree / "usr/lib/libfoo.so.1").read_bytes() == b"foo"
    assert (tree / "usr/bin/prog").stat().st_mode & 0o777 == 0o755
    assert (tree / "usr/bin/awk").resolve() == tree / "usr/bin/mawk"
    assert (tree / "etc/hosts").exists()
    assert sorted(os.listdir(tmp_path)) == ["archive", "cache", "tree"]


def test_dpkgs_database(tmp_path: Path, server: Server, archive: Archive) -> None:
    create(tmp_path, server, "prog")
    database = tmp_path / "tree/var/lib/dpkg"
    status = (database / "status").read_text()
    assert "Package: prog\nStatus: install ok unpacked\nVersion: 1.0-1\n" in status
    assert "Conffiles:\n /etc/prog.conf 3a8e4c06e471595f6eb262bb9b5582d9\n" in status.replace("\n\n", "\n")
    assert (database / "info/prog.list").read_text() == "/.\n/bin/prog\n/etc/prog.conf\n"
    assert (database / "info/libfoo1:riscv64.list").exists()
    assert os.access(database / "info/mawk.postinst", os.X_OK)
    if shutil.which("dpkg-query"):
        done = subprocess.run(
            ["dpkg-query", f"--admindir={database}", "-W", "-f", "${Package} ${db:Status-Abbrev}${Version}\n"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "prog iU 1.0-1\n" in done.stdout
        assert done.stderr == ""


def test_other_machines(tmp_path: Path, server: Server, archive: Archive) -> None:
    archive.stanzas.clear()
    archive.add("one", architecture="amd64", essential="yes")
    archive.release(architecture="amd64")
    assert create(tmp_path, server, isa="x86_64")["architecture"] == "amd64"
    assert (tmp_path / "tree/lib64").readlink() == Path("usr/lib64")


def test_minimal_and_recommends(tmp_path: Path, server: Server, archive: Archive) -> None:
    found = create(tmp_path, server, "prog", minimal=True)
    assert found["recommended"] == ["extra"]
    found = create(tmp_path, server, "prog", minimal=True, recommends=True, force=True)
    assert found["recommended"] == []
    assert [row["name"] for row in found["packages"]] == ["extra", "libfoo1", "prog"]
    with pytest.raises(UsageError, match="--minimal needs"):
        create(tmp_path, server, minimal=True, output="other")


def test_add_and_list(tmp_path: Path, server: Server, archive: Archive) -> None:
    create(tmp_path, server)
    found = add(tmp_path, "prog")
    assert [row["name"] for row in found["packages"]] == ["libfoo1", "prog"]
    assert found["asked"] == ["prog"]
    assert add(tmp_path, "prog")["packages"] == []
    listed = commands.contents(str(tmp_path / "tree"))
    assert listed["complete"]
    assert [row["name"] for row in listed["packages"]] == ["base-files", "libfoo1", "mawk", "prog"]
    assert "mawk" in (tmp_path / "tree/var/lib/dpkg/status").read_text()
    with pytest.raises(UsageError, match="no package is named"):
        add(tmp_path)


def test_what_was_interrupted_is_finished(
    tmp_path: Path, server: Server, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path, server)

    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commands, "record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            add(tmp_path, "prog")
    listed = commands.contents(str(tmp_path / "tree"))
    assert not listed["complete"]
    assert "prog" not in [row["name"] for row in listed["packages"]]
    done = vm("sysroot", "list", str(tmp_path / "tree"))
    assert done.returncode == 1
    assert "not complete" in done.stdout
    assert [row["name"] for row in add(tmp_path)["packages"]] == ["libfoo1", "prog"]
    assert commands.contents(str(tmp_path / "tree"))["complete"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, PackageError])
def test_nothing_is_left_of_a_tree_that_failed(
    tmp_path: Path,
    server: Server,
    archive: Archive,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    def fails(*_: Any) -> None:
        raise error("x")

    monkeypatch.setattr(commands, "settle", fails)
    with pytest.raises(error):
        create(tmp_path, server, "prog")
    assert sorted(os.listdir(tmp_path)) == ["archive", "cache"]


def test_what_a_killed_command_left_is_taken_away(tmp_path: Path, server: Server, archive: Archive) -> None:
    left = tmp_path / ".tree.vm-partial"
    left.mkdir()
    (left / MARKER).write_text("{}")
    (left / "junk").write_text("junk")
    create(tmp_path, server)
    assert not left.exists()
    assert not (tmp_path / "tree/junk").exists()
    left.mkdir()
    (left / "mine").write_text("mine")
    with pytest.raises(SysrootError, match="in the way"):
        create(tmp_path, server, force=True)
    assert (left / "mine").read_text() == "mine"
    shutil.rmtree(left)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / MARKER).write_text("{}")
    left.symlink_to("elsewhere")
    with pytest.raises(SysrootError, match="in the way"):
        create(tmp_path, server, force=True)
    assert os.listdir(tmp_path / "elsewhere") == [MARKER]


def test_only_sysroots_are_replaced(tmp_path: Path, server: Server, archive: Archive) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    create(tmp_path, server)  # an empty directory will do
    with pytest.raises(SysrootError, match="a sysroot already") as caught:
        create(tmp_path, server)
    assert "--force" in caught.value.hint
    (tree / "old").write_text("")
    create(tmp_path, server, force=True)
    assert not (tree / "old").exists()
    (tree / MARKER).unlink()
    for force in (False, True):
        with pytest.raises(SysrootError, match="no sysroot of vm"):
            create(tmp_path, server, force=force)
    (tmp_path / "file").write_text("")
    with pytest.raises(SysrootError, match="no directory"):
        create(tmp_path, server, output="file")
    assert sorted(os.listdir(tmp_path)) == ["archive", "cache", "file", "tree"]


@pytest.mark.parametrize(
    "marker",
    [
        None,
        "",
        "[]",
        '{"format": 99}',
        '{"format": 1, "isa": "z80", "architecture": "z", "suite": ""}',
        "[" * 99999,
    ],
)
def test_what_is_no_sysroot(tmp_path: Path, marker: str | None) -> None:
    (tmp_path / "tree").mkdir()
    if marker is not None:
        (tmp_path / "tree" / MARKER).write_text(marker)
    for command in (lambda: add(tmp_path, "prog"), lambda: commands.contents(str(tmp_path / "tree"))):
        with pytest.raises(SysrootError):
            command()
    with pytest.raises(SysrootError, match="no directory"):
        commands.contents(str(tmp_path / "absent"))


# -- the archive ------------------------------------------------------------------------------------------------------


def test_a_stale_suite_is_named_and_the_next_one_tried(
    tmp_path: Path, server: Server, archive: Archive
) -> None:
    archive.release(days=-2)
    archive.release("forky", "testing", by_hash=False)
    for folder in ("forky", "testing"):
        index = server.root / f"dists/{folder}/main/binary-riscv64/Packages.xz"
        index.write_bytes(index.read_bytes()[::-1])
    archive.release("sid", "unstable", days=3)
    progress = Quiet()
    assert create(tmp_path, server, progress=progress)["suite"] == "sid"
    assert [note.partition(":")[0].split(" on ")[0] for note in progress.notes[1:]] == [
        "trixie expired",
        "forky is stale",
    ]


def test_a_package_that_the_mirror_lost_makes_its_suite_stale(
    tmp_path: Path, server: Server, archive: Archive
) -> None:
    archive.release("forky", "testing")
    lost = archive.add("prog", "2.0-1")
    archive.release()
    lost.unlink()
    progress = Quiet()
    assert create(tmp_path, server, "prog", progress=progress)["suite"] == "forky"
    assert any("trixie is stale on the mirror: the mirror has no " in note for note in progress.notes)


def test_when_no_suite_is_left(tmp_path: Path, server: Server, archive: Archive) -> None:
    archive.release(architectures="amd64")
    with pytest.raises(
        MirrorError, match="none of the suites stable, testing, unstable can be used"
    ) as caught:
        create(tmp_path, server)
    assert "--mirror" in caught.value.hint
    progress = Quiet()
    with pytest.raises(MirrorError, match="trixie is not made for riscv64"):
        create(tmp_path, server, suites=("trixie",), progress=progress)
    with pytest.raises(UsageError, match="no name of a suite"):
        create(tmp_path, server, suites=("../etc",))
    archive.release()
    with pytest.raises(MirrorError, match="has no index contrib/"):
        create(tmp_path, server, suites=("trixie",), components=("contrib",))


def test_an_alias_stands_for_its_release(tmp_path: Path, server: Server, archive: Archive) -> None:
    """A cache may have an old file under one of a suite's two names."""
    archive.add("new")
    archive.release(names=["trixie"])
    assert [row["name"] for row in create(tmp_path, server, "new", minimal=True)["packages"]] == ["new"]
    archive.add("newer")
    archive.release(names=["stable"], date=time.time() + 60)
    found = create(tmp_path, server, "newer", minimal=True, output="other")
    assert found["suite"] == "stable"


def test_a_replayed_suite_is_refused(tmp_path: Path, server: Server, archive: Archive) -> None:
    archive.release("bookworm", "oldstable", names=["stable"])
    with pytest.raises(VerificationError, match="of another suite: bookworm or oldstable"):
        create(tmp_path, server)


def test_a_changed_package_is_refused(tmp_path: Path, server: Server, archive: Archive) -> None:
    path = server.root / "pool/prog_1.0-1_all.deb"
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(VerificationError, match="not the file that the index names"):
        create(tmp_path, server, "prog")
    assert not (tmp_path / "tree").exists()
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(VerificationError, match="not the file that the index names"):
        create(tmp_path, server, "prog")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Version: 1.0-1": "Version: 1.0-2"}, "the package calls itself prog 1.0-1"),
        ({"Filename: pool/": "Filename: ../pool/"}, "the index names no file for prog"),
        ({"SHA256: ": "SHA256: 00"}, "no SHA-256"),
        ({"Depends: ": "Depends: ("}, "no relation to a package"),
        ({"Version: 1.0-1": "Version: _"}, "no version of a package"),
    ],
)
def test_a_wrong_index_is_refused(
    tmp_path: Path, server: Server, archive: Archive, changes: dict[str, str], message: str
) -> None:
    at = next(n for n, one in enumerate(archive.stanzas) if one.startswith("Package: prog\n"))
    for old, new in changes.items():
        archive.stanzas[at] = archive.stanzas[at].replace(old, new)
    archive.release()
    with pytest.raises(VmError, match=message):
        create(tmp_path, server, "prog")
    assert not (tmp_path / "tree").exists()


def test_a_package_for_another_machine_is_refused(tmp_path: Path, server: Server, archive: Archive) -> None:
    archive.add("alien", architecture="amd64")
    archive.release()
    with pytest.raises(PackageError, match="alien 1.0-1: it is for amd64, not riscv64"):
        create(tmp_path, server, "alien")


def test_a_hostile_package_is_named(tmp_path: Path, server: Server, archive: Archive) -> None:
    archive.add("evil", files=[entry("./l", link=str(tmp_path)), entry("../../escaped", b"x")])
    archive.release()
    with pytest.raises(PackageError, match=r"evil 1\.0-1: the path '\.\./\.\./escaped' is refused"):
        create(tmp_path, server, "evil")
    assert sorted(os.listdir(tmp_path)) == ["archive", "cache"]


# -- signatures -------------------------------------------------------------------------------------------------------

needs_gpg = pytest.mark.skipif(
    shutil.which("gpg") is None or shutil.which("gpgv") is None,
    reason="needs gpg and gpgv to sign and to check",
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of gpg with a key that nobody will miss, exported to ring.gpg and ring.asc."""
    home = tmp_path_factory.mktemp("k")
    home.chmod(0o700)
    gpg(home, "--quick-generate-key", "archive@example.org", "ed25519", "sign", "never")
    (home / "ring.gpg").write_bytes(gpg(home, "--export"))
    (home / "ring.asc").write_bytes(gpg(home, "--armor", "--export"))
    yield home
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


@needs_gpg
@pytest.mark.parametrize("ring", ["ring.gpg", "ring.asc"])
def test_a_good_signature(tmp_path: Path, server: Server, archive: Archive, key: Path, ring: str) -> None:
    archive.release(key=key)
    progress = Quiet()
    found = create(tmp_path, server, "prog", check_signature=True, keyring=str(key / ring), progress=progress)
    assert found["complete"]
    assert progress.notes == []


@needs_gpg
def test_signatures_that_are_not_good(
    tmp_path: Path, server: Server, archive: Archive, key: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def refused(message: str, ring: Path = key / "ring.gpg") -> None:
        with pytest.raises(VerificationError, match=message):
            create(tmp_path, server, check_signature=True, keyring=str(ring))

    refused("no good signature")  # none at all
    archive.release(key=key)
    for name in ("trixie", "stable"):
        path = server.root / f"dists/{name}/InRelease"
        path.write_text(path.read_text().replace("Origin: Test", "Origin: Evil"))
    refused("the signature is bad")
    archive.release(key=key)
    (tmp_path / "empty.gpg").write_bytes(b"")
    refused("keys that .* does not have", tmp_path / "empty.gpg")
    refused("there is no file", tmp_path / "absent.gpg")
    (tmp_path / "bad.asc").write_text(
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n*\n-----END PGP PUBLIC KEY BLOCK-----\n"
    )
    refused("is no keyring", tmp_path / "bad.asc")


@needs_gpg
def test_only_what_is_signed_counts(tmp_path: Path, server: Server, archive: Archive, key: Path) -> None:
    """Lines around the signed text are an old trick against who reads the file and not gpgv's output."""
    evil = archive.release(architectures="none")
    archive.release(key=key)
    for name in ("trixie", "stable"):
        path = server.root / f"dists/{name}/InRelease"
        path.write_text(evil + path.read_text() + evil)
    try:
        found = create(tmp_path, server, check_signature=True, keyring=str(key / "ring.gpg"))
    except VerificationError:
        return  # refusing it is as good
    assert found["complete"]


def test_without_keys_or_gpgv_it_refuses(
    tmp_path: Path, server: Server, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "KEYRINGS", ())
    monkeypatch.setattr(mirror.shutil, "which", lambda name: f"/bin/{name}")
    with pytest.raises(VerificationError, match="keys are not on this host") as caught:
        create(tmp_path, server, check_signature=True)
    assert "install debian-archive-keyring" in caught.value.hint
    monkeypatch.setattr(mirror.shutil, "which", lambda name: None)
    with pytest.raises(VerificationError, match="no gpgv") as caught:
        create(tmp_path, server, check_signature=True)
    assert "--no-check-signature" in caught.value.hint
    progress = Quiet()
    create(tmp_path, server, progress=progress)
    assert "not checked" in progress.notes[0]


# -- apt --------------------------------------------------------------------------------------------------------------


def test_apts_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_apt_options", dict)
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "mirrors.list").write_text("# mine\nhttp://listed.example/debian/\tpriority:1\n")
    (tmp_path / "sources.list").write_text(
        "# deb http://off.example/debian trixie main\n"
        "deb-src http://src.example/debian trixie main\n"
        "deb cdrom:[Debian]/ trixie main\n"
        "deb [arch=amd64 check-valid-until=no] https://other.example/linux trixie main # comment\n"
        "deb [ signed-by=/k/debian-archive-keyring.gpg ] http://one.example:80/mirror/ trixie main contrib\n"
        "deb http://security.example/debian trixie-security main\n"
        "deb http://flat.example/debian ./\n"
        f"deb mirror+file:{tmp_path}/mirrors.list trixie main\n"
    )
    (parts / "a.sources").write_text(
        "# a comment\nTypes: deb deb-src\n# another\nURIs: http://two.example/debian http://three.example/x\n"
        "Suites: trixie trixie-updates\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://no.example/debian\nSuites: trixie\nComponents: main\n\nbroken\n"
    )
    (parts / "b.sources.disabled").write_text(
        "Types: deb\nURIs: http://no.example/debian\nSuites: x\nComponents: main\n"
    )
    found = read_apt(tmp_path)
    assert [one.url for one in found.mirrors] == [
        "http://one.example:80/mirror", "http://listed.example/debian", "http://two.example/debian",
        "https://other.example/linux", "http://three.example/x",
    ]  # fmt: skip
    assert [one.check_valid_until for one in found.mirrors] == [True, True, True, False, True]
    assert found.mirrors[2].keyring.splitlines()[1:] == ["-----BEGIN PGP PUBLIC KEY BLOCK-----", ".", "abc"]
    assert found.proxies == {}
    assert read_apt(tmp_path / "absent").mirrors == ()


def test_apts_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "apt-config"
    program.write_text("#!/bin/sh\necho \"http='http://proxy.example:3142'\"\necho \"check='false'\"\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "sources.list").write_text("deb http://one.example/debian trixie main\n")
    found = read_apt(tmp_path)
    assert found.proxies == {"http": "http://proxy.example:3142"}
    assert not found.mirrors[0].check_valid_until


def test_an_expired_suite_that_apt_does_not_mind(
    tmp_path: Path, server: Server, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.release(days=-2)
    apt = mirror.Apt((Mirror(server.url, check_valid_until=False, origin="apt"),))
    monkeypatch.setattr(commands, "read_apt", lambda: apt)
    progress = Quiet()
    commands.create(
        "riscv64",
        str(tmp_path / "tree"),
        (),
        Choices(check_signature=False),
        progress,
        environ=environ(tmp_path),
    )
    assert any("trixie expired on" in note and "not to mind" in note for note in progress.notes)


def test_without_any_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "read_apt", mirror.Apt)
    with pytest.raises(MirrorError, match="no Debian archive is known") as caught:
        commands.create("riscv64", str(tmp_path / "tree"), (), Choices(), Quiet(), environ=environ(tmp_path))
    assert "VM_MIRROR" in caught.value.hint
    with pytest.raises(UsageError, match="no http, https or file URL"):
        commands.create(
            "riscv64", str(tmp_path / "t"), (), Choices("ftp://x"), Quiet(), environ=environ(tmp_path)
        )


# -- downloads --------------------------------------------------------------------------------------------------------


def wanted(server: Server, name: str, data: bytes) -> Wanted:
    import hashlib

    (server.root / name).write_bytes(data)
    return Wanted(f"{server.url}/{name}", hashlib.sha256(data).hexdigest(), len(data))


def test_downloads_are_kept(tmp_path: Path, server: Server, archive: Archive) -> None:
    create(tmp_path, server, "prog")
    before = len(server.log)
    found = create(tmp_path, server, "prog", force=True)
    assert found["fetched_bytes"] == 0
    assert found["kept_bytes"] > 0
    assert {path.rpartition("/")[2] for path, _ in server.log[before:]} == {"InRelease"}
    kept = sorted((tmp_path / "cache/sysroot").iterdir())
    kept[0].write_bytes(b"damaged on the disk")
    assert create(tmp_path, server, "prog", force=True)["fetched_bytes"] > 0
    count, size = commands.clean(environ(tmp_path))
    assert count == len(kept)
    assert size > 0
    assert commands.clean(environ(tmp_path)) == (0, 0)


@pytest.mark.parametrize("ranges", [True, False])
def test_what_was_cut_off_goes_on(tmp_path: Path, server: Server, ranges: bool) -> None:
    data = bytes(range(256)) * 4096
    one = wanted(server, "file", data)
    server.ranges, server.cut["file"] = ranges, [300_000, 200_000, 0, 0]
    store = Store(tmp_path / "store", Fetcher({}))
    if not ranges:
        server.cut["file"] = [300_000, 500_000]
    assert store.get(one).read_bytes() == data
    assert server.log[1] == ("/file", "bytes=300000-")
    assert store.fetched_bytes == len(data)
    assert os.listdir(tmp_path / "store") == [one.sha256]


def test_a_part_of_an_earlier_run_is_used_or_dropped(tmp_path: Path, server: Server) -> None:
    data = os.urandom(100_000)
    one = wanted(server, "file", data)
    store = Store(tmp_path / "store", Fetcher({}))
    store.directory.mkdir()
    part = store.directory / f"{one.sha256}.part"
    for left, fetched in (
        (data[:40_000], 60_000),
        (b"x" * 40_000, 160_000),
        (b"x" * 200_000, 100_000),
        (data, 0),
    ):
        part.write_bytes(left)
        store.path(one.sha256).unlink(missing_ok=True)
        store.fetched_bytes = 0
        assert store.get(one).read_bytes() == data
        assert store.fetched_bytes == fetched
        assert not part.exists()


def test_errors_of_a_server(tmp_path: Path, server: Server) -> None:
    one = wanted(server, "file", b"data")
    store = Store(tmp_path / "store", Fetcher({}))
    server.statuses["file"] = [503, 503]
    assert store.get(one).read_bytes() == b"data"  # a busy server is asked again
    server.statuses["file"] = [403]
    store.clear()
    with pytest.raises(MirrorError, match="HTTP status 403"):
        store.get(one)
    with pytest.raises(Missing, match="the mirror has no"):
        store.get(Wanted(f"{server.url}/absent", "0" * 64, 1))
    server.cut["file"] = [0] * 9
    with pytest.raises(MirrorError, match="cut off again and again"):
        store.get(one)
    server.shutdown()
    server.server_close()
    with pytest.raises(MirrorError, match="refused"):
        store.get(one)
    with pytest.raises(StaleError):
        Fetcher({}).read(f"file://{tmp_path}/absent", 10)


def test_all_are_fetched_or_the_first_error_ends_it(tmp_path: Path, server: Server) -> None:
    rows = [wanted(server, f"f{n}", os.urandom(1000 + n)) for n in range(40)]
    store = Store(tmp_path / "store", Fetcher({}))
    paths = store.get_all(rows, "files", Quiet())
    assert [path.name for path in paths] == [row.sha256 for row in rows]
    assert store.get_all([], "nothing", Quiet()) == []
    with pytest.raises(VerificationError):
        store.get_all([Wanted(rows[0].url, "0" * 64, 5)], "files", Quiet())


def test_a_redirect_never_leads_to_a_file(tmp_path: Path, server: Server) -> None:
    (tmp_path / "secret").write_text("mine")
    (server.root / "there").write_bytes(b"data")
    server.redirects = {"local": f"file://{tmp_path}/secret", "moved": "/there"}
    assert Fetcher({}).read(f"{server.url}/moved", 10) == b"data"
    with pytest.raises(MirrorError, match="not allowed"):
        Fetcher({}).read(f"{server.url}/local", 10)
    with pytest.raises(MirrorError, match="longer than 3 bytes"):
        Fetcher({}).read(f"{server.url}/there", 3)


def test_a_list_that_was_cut_off_is_read_again(tmp_path: Path, server: Server, archive: Archive) -> None:
    server.cut["stable/InRelease"] = [100, 200]
    assert create(tmp_path, server)["complete"]
    server.cut["stable/InRelease"] = [100] * 9
    with pytest.raises(MirrorError, match="cut off"):
        create(tmp_path, server, force=True, suites=("stable",))
    assert (tmp_path / "tree").exists()


def test_proxies(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy is asked for the whole URL; this one then has no such file."""
    for proxies, variable in (({"http": server.url}, ""), ({}, server.url)):
        monkeypatch.setenv("http_proxy", variable)
        with pytest.raises(Missing):
            Fetcher(proxies).read("http://far.example/there", 10)
        assert server.log[-1][0] == "http://far.example/there"
    (server.root / "there").write_bytes(b"data")
    assert Fetcher({"http": ""}).read(f"{server.url}/there", 10) == b"data"


def test_passwords_are_sent_and_not_shown(tmp_path: Path, server: Server) -> None:
    (server.root / "there").write_bytes(b"data")
    url = server.url.replace("//", "//me:se%40cret@") + "/there"
    Fetcher({}).read(url, 10)
    assert server.authorizations == ["Basic " + base64.b64encode(b"me:se@cret").decode()]
    with pytest.raises(MirrorError) as caught:
        Fetcher({}).read(url + "x", 10)
    assert "cret" not in str(caught.value)
    assert redacted("http://a:b@c:1/d") == "http://c:1/d"


def test_a_store_of_somebody_else_is_not_used(tmp_path: Path, server: Server) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o777)
    with pytest.raises(VmError, match="can be written by others"):
        Store(tmp_path / "store", Fetcher({})).get(wanted(server, "file", b"x"))


# -- as a user runs it ------------------------------------------------------------------------------------------------


def test_the_commands(tmp_path: Path, server: Server, archive: Archive) -> None:
    where = environ(tmp_path, VM_MIRROR=server.url)
    tree = str(tmp_path / "tree")
    done = vm("sysroot", "create", "riscv64", "--no-check-signature", "-o", tree, "mawk", **where)
    assert done.returncode == 0, done.stderr
    assert "2 packages of trixie for riscv64" in done.stdout
    assert "vm: unpacking: 2, " in done.stderr
    done = vm("sysroot", "add", "--no-check-signature", tree, "prog", "--json", **where)
    assert [row["name"] for row in json.loads(done.stdout)["packages"]] == ["libfoo1", "prog"]
    listed = json.loads(vm("sysroot", "list", tree, "--json", **where).stdout)
    assert [row["name"] for row in listed["packages"]] == ["base-files", "libfoo1", "mawk", "prog"]
    assert "libfoo1" in vm("sysroot", "list", tree, **where).stdout
    assert "removed 5 files" in vm("sysroot", "clean", **where).stdout


def test_bars_on_a_terminal(tmp_path: Path, server: Server, archive: Archive) -> None:
    ours, theirs = pty.openpty()
    words = ["sysroot", "create", "riscv64", "--no-check-signature", "-o", str(tmp_path / "tree"), "prog"]
    with subprocess.Popen(
        [sys.executable, "-m", "vm_cli", *words],
        env={**os.environ, **environ(tmp_path, VM_MIRROR=server.url), "TERM": "xterm"},
        stderr=theirs,
        stdout=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO is the end of a terminal
            while data := os.read(ours, 4096):
                shown += data
        process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert "unpacking" in shown.decode()
    assert "━" in shown.decode()


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("create", "z80", "-o", "t"), 2, "VM001"),
        (("create", "riscv64"), 2, "VM001"),
        (("create", "riscv64", "-o", "t", "--no-check-signature", "nonesuch"), 125, "VM403"),
        (("create", "riscv64", "-o", "t", "--mirror", "gopher://x"), 2, "VM001"),
        (("create", "riscv64", "-o", "t", "--mirror", "file:///nowhere"), 125, "VM401"),
        (("create", "riscv64", "-o", "archive", "--no-check-signature"), 125, "VM400"),
        (("create", "riscv64", "-o", "t", "--keyring", "nowhere"), 125, "VM402"),
        (("add", "nowhere", "x"), 125, "VM400"),
        (("list", "archive"), 125, "VM400"),
    ],
)
def test_errors(
    tmp_path: Path, server: Server, archive: Archive, words: tuple[str, ...], status: int, code: str
) -> None:
    done = vm("sysroot", *words, cwd=tmp_path, **environ(tmp_path, VM_MIRROR=server.url))
    last = [line for line in done.stderr.splitlines() if not line.startswith(("vm: note", "vm: index"))]
    done.stderr = "\n".join(last)
    if code == "VM402" and shutil.which("gpgv") is None:
        pytest.skip("gpgv is not here")
    one_error(done, status, code)
    assert not (tmp_path / "t").exists()


def test_ctrl_c_leaves_nothing(tmp_path: Path, server: Server, archive: Archive) -> None:
    """While a server stalls, too."""
    server.stalled = "/prog"
    words = ["sysroot", "create", "riscv64", "--no-check-signature", "-o", str(tmp_path / "tree"), "prog"]
    with subprocess.Popen(
        [sys.executable, "-m", "vm_cli", *words],
        env={**os.environ, **environ(tmp_path, VM_MIRROR=server.url)},
        stderr=subprocess.PIPE,
    ) as process:
        deadline = time.monotonic() + 60
        while not any("/prog" in path for path, _ in server.log) and time.monotonic() < deadline:
            time.sleep(0.02)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert time.monotonic() - start < 10
    assert sorted(os.listdir(tmp_path)) == ["archive", "cache"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("vm sysroot cre", "create"),
        ("vm sysroot create ris", "riscv64"),
        ("vm sysroot create --recom", "--recommends"),
    ],
)
def test_completion(words: str, expected: str) -> None:
    count = str(len(words.split()) - 1)
    assert expected in vm(_VM_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=count).stdout
