"""The parts of vm sysroot that read what others wrote: Debian's control format, versions, archives, maintainer scripts."""

from __future__ import annotations

import bz2
import contextlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vm_cli.sysroot.control import Package, Relation, clauses, fields, stanzas, version_key
from vm_cli.sysroot.deb import Deb
from vm_cli.sysroot.errors import DependencyError, PackageError, SysrootError
from vm_cli.sysroot.resolve import Index, resolve
from vm_cli.sysroot.settle import Alternative, alternatives, read_status, settle
from vm_cli.sysroot.tree import Tree

from .debian_archive import ar, deb, entry, tar

CONTROL = "Package: a\nVersion: 1\nArchitecture: riscv64\n"

# -- control ----------------------------------------------------------------------------------------------------------


def test_stanzas_and_fields() -> None:
    text = "\nA: 1\nB: two\n lines\n .\n# comment\nC:\n \t\n\nA: 2\n"
    first, second = stanzas(text)
    assert fields(first) == {"a": "1", "b": "two\nlines\n.", "c": ""}
    assert fields(second) == {"a": "2"}


@pytest.mark.parametrize("text", [" continued", "no colon", "A: 1\nA: 2", "a b: 1", ": x"])
def test_what_is_no_control_data(text: str) -> None:
    with pytest.raises(PackageError):
        fields(text)


ORDERED = [
    "0~~", "0~", "0", "0a", "0+", "1.0~rc1-1", "1.0~rc1-1+b1", "1.0-0.1", "1.0-1~deb13u1", "1.0-1", "1.0-1+b1", "1.0-1.1",
    "1.0-10", "1.0a", "1.0+dfsg-1", "1.0.0", "1.2", "1.10", "1:0.1", "2:0",
]  # fmt: skip


def test_versions_are_ordered() -> None:
    keys = [version_key(text) for text in ORDERED]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    for same in (("1.0", "1.0-0"), ("0:1", "1"), ("1.00", "1.0"), ("a", "a0")):
        assert version_key(same[0]) == version_key(same[1])


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg is the oracle, and it is not here")
@given(st.tuples(*[st.text("01239a~+.-b:", min_size=1, max_size=8)] * 2))
@settings(max_examples=150, deadline=None)
def test_versions_as_dpkg_compares_them(pair: tuple[str, str]) -> None:
    left, right = ("1" + text.replace(":", "") for text in pair)
    try:
        ours = version_key(left) < version_key(right)
    except PackageError:
        return
    done = subprocess.run(["dpkg", "--compare-versions", left, "lt", right], capture_output=True, check=False)
    assert done.returncode == 2 or (done.returncode == 0) == ours, (
        pair
    )  # 2: dpkg is stricter about what is a version


def test_relations() -> None:
    found = clauses("libc6 (>= 2.38), awk | mawk:any (<< 1), \n python3:any (>= 3~), old (> 1)")
    assert [str(clause) for clause in found] == [
        "libc6 (>= 2.38)", "awk | mawk:any (<< 1)", "python3:any (>= 3~)", "old (>= 1)",
    ]  # fmt: skip
    assert clauses("") == ()
    for wrong in ("a (", "a (>= )", "a ((>= 1))", "(>= 1)", "a b", "a (>= 1) x", "a (~ 1)", "a |"):
        with pytest.raises(PackageError):
            clauses(wrong)


@pytest.mark.parametrize(
    ("provides", "relation", "wanted"),
    [
        ("", Relation("a", ">=", "1"), True),
        ("", Relation("a", ">>", "1"), False),
        ("", Relation("a", qualifier="any"), True),
        ("", Relation("a", qualifier="amd64"), False),
        ("v", Relation("v"), True),
        ("v", Relation("v", ">=", "1"), False),
        ("v (= 3)", Relation("v", ">=", "2"), True),
        ("v (= 3)", Relation("v", "<<", "3"), False),
    ],
)
def test_what_satisfies(provides: str, relation: Relation, wanted: bool) -> None:
    assert Package(CONTROL + (f"Provides: {provides}\n" if provides else "")).satisfies(relation) == wanted


@given(st.text("abP:=ckage\n ()|,<>~1.-\0é", max_size=200))
@settings(max_examples=500, deadline=None)
def test_control_data_is_refused_with_its_own_error(text: str) -> None:
    for read in (
        lambda: [fields(one) for one in stanzas(text)],
        lambda: Package(text),
        lambda: clauses(text),
    ):
        with contextlib.suppress(PackageError):
            read()


# -- choosing ---------------------------------------------------------------------------------------------------------


def index(*rows: str) -> Index:
    """One package a row: ``name version; Field: value; ...``."""
    texts = []
    for row in rows:
        head, *more = row.split(";")
        name, _, version = head.partition(" ")
        lines = [
            f"Package: {name}",
            f"Version: {version or '1'}",
            "Architecture: riscv64",
            *map(str.strip, more),
        ]
        texts.append("\n".join(lines))
    return Index("\n\n".join(texts).encode(), "suite")


def chosen(found: Index, *names: str, **options: bool) -> list[str]:
    return sorted(package.name for package in resolve(found, names, **options))


def test_dependencies_come_along_and_no_others() -> None:
    found = index("a; Depends: b, c (>= 2)", "b; Pre-Depends: d", "c 1", "c 3", "d", "e", "f; Essential: yes")
    assert chosen(found, "a") == ["a", "b", "c", "d", "f"]
    assert chosen(found, "a", essential=False) == ["a", "b", "c", "d"]
    assert chosen(found) == ["f"]
    versions = {package.name: package.version for package in resolve(found, ["a"])}
    assert versions["c"] == "3"
    assert next(p.version for p in resolve(found, ["c=1"])) == "1"


def test_cycles_end() -> None:
    assert chosen(index("a; Depends: b", "b; Depends: c", "c; Depends: a"), "a") == ["a", "b", "c"]


def test_alternatives_prefer_what_is_wanted_anyway() -> None:
    found = index("a; Depends: x | y", "x", "y", "b; Depends: y")
    assert chosen(found, "a") == ["a", "x"]
    assert chosen(found, "a", "y") == ["a", "y"]
    assert chosen(index("a; Depends: gone | y", "y"), "a") == ["a", "y"]


def test_virtual_packages_are_provided_by_what_the_system_needs_most() -> None:
    found = index(
        "a; Depends: awk",
        "gawk; Provides: awk; Priority: optional",
        "mawk; Provides: awk; Priority: required",
    )
    assert chosen(found, "a") == ["a", "mawk"]
    with pytest.raises(DependencyError, match="virtual") as caught:
        resolve(found, ["awk"])
    assert "mawk, gawk" in caught.value.hint
    assert chosen(index("x; Provides: v"), "v") == ["x"]


def test_a_choice_that_leads_nowhere_is_taken_back() -> None:
    found = index("a; Depends: x | y", "x; Depends: z", "z; Depends: gone", "y")
    assert chosen(found, "a") == ["a", "y"]
    found = index("a; Depends: x | y, w", "x", "y", "w; Conflicts: x")
    assert chosen(found, "a") == ["a", "w", "y"]
    found = index("a; Depends: b", "b 2; Depends: gone", "b 1")
    assert [(p.name, p.version) for p in resolve(found, ["a"])] == [("a", "1"), ("b", "1")]


def test_a_package_may_refuse_what_it_provides() -> None:
    found = index("a; Provides: mta; Conflicts: mta", "b; Provides: mta; Conflicts: mta", "c; Depends: mta")
    assert chosen(found, "c") == ["a", "c"]
    assert chosen(found, "c", "b") == ["b", "c"]
    with pytest.raises(DependencyError, match="refuses mta"):
        resolve(found, ["a", "b"])


def test_recommended_packages() -> None:
    found = index("a; Recommends: b, gone", "b")
    assert chosen(found, "a") == ["a"]
    assert chosen(found, "a", recommends=True) == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "names", "message", "hint"),
    [
        (["python3"], ["pyhton3"], "suite has no package 'pyhton3'", "did you mean python3?"),
        (["a"], ["zzzzzz"], "suite has no package 'zzzzzz'", ""),
        (["a 2"], ["a=3"], "suite has no a of version '3'", "it has 2"),
        (["a"], ["a=/"], "'a=/': no version of a package", ""),
        (["a; Depends: b (>= 2)", "b 1"], ["a"], r"a depends on b \(>= 2\): suite has b 1", "--suite"),
        (
            ["a; Depends: b", "b; Depends: c"],
            ["a"],
            r"b \(wanted by a\) depends on c: suite has no c",
            "--suite",
        ),
        (["a; Depends: b", "b; Breaks: a (<= 1)"], ["a"], r"a depends on b: b refuses a \(<= 1\)", ""),
    ],
)
def test_what_cannot_be_had_is_explained(rows: list[str], names: list[str], message: str, hint: str) -> None:
    with pytest.raises(DependencyError, match=message) as caught:
        resolve(index(*rows), names)
    assert hint in caught.value.hint


def test_what_is_installed_stays() -> None:
    there = {"b": Package("Package: b\nVersion: 1\nArchitecture: riscv64")}
    found = index("a; Depends: b", "b 2", "c; Depends: b (>= 2)")
    assert [p.name for p in resolve(found, ["a"], installed=there)] == ["a"]
    with pytest.raises(DependencyError, match="b 1 is chosen already") as caught:
        resolve(found, ["c"], installed=there)
    assert "make it anew" in caught.value.hint


def test_a_search_without_an_answer_ends() -> None:
    rows = [f"p{n}; Depends: x{n} | y{n} | z{n}" for n in range(20)]
    rows += [f"{c}{n}" for n in range(20) for c in "xyz"] + [
        "a; Depends: " + ", ".join(f"p{n}" for n in range(20)) + ", gone"
    ]
    with pytest.raises(DependencyError, match="suite has no gone"):
        resolve(index(*rows), ["a"])


@given(
    st.lists(
        st.tuples(
            *[
                st.sampled_from(
                    [
                        "Package: a",
                        "Package: b",
                        "Version: 1",
                        "Version: x y",
                        "Depends: a | b",
                        "Depends: b (>= 1)",
                        "Conflicts: a",
                        "Provides: b (= 1), c",
                        "Essential: yes",
                        "Architecture: riscv64",
                        " more",
                        "",
                        "junk",
                        "Recommends: ,",
                        "\xff: \0",
                    ]
                )
            ]
            * 6
        ),
        max_size=5,
    )
)
@settings(max_examples=300, deadline=None)
def test_any_index_gives_packages_or_its_own_error(rows: list[tuple[str, ...]]) -> None:
    text = "\n\n".join("\n".join(row) for row in rows)
    with contextlib.suppress(DependencyError, PackageError):
        resolve(Index(text.encode("latin-1")), ["a"], recommends=True)


# -- .deb -------------------------------------------------------------------------------------------------------------


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("pack", ["", ".gz", ".xz"])
def test_a_package_is_read(tmp_path: Path, pack: str) -> None:
    data = deb(CONTROL, [entry("./x", b"hello")], scripts={"postinst": "exit 0\n"}, pack=pack)
    with Deb(written(tmp_path / "a.deb", data)) as package:
        assert package.package().name == "a"
        assert package.control["postinst"] == b"exit 0\n"
        with package.data() as archive:
            assert [member.name for member in archive] == ["./x"]


def test_zstd(tmp_path: Path) -> None:
    zstd = pytest.importorskip("backports.zstd", reason="needs backports.zstd (or Python 3.14)")
    data = zstd.compress(tar([entry("./x", b"hello")]))
    control = zstd.compress(tar([entry("./control", CONTROL.encode())]))
    members = [("debian-binary", b"2.0\n"), ("control.tar.zst", control), ("data.tar.zst", data)]
    with Deb(written(tmp_path / "a.deb", ar(members))) as package, package.data() as archive:
        assert [member.name for member in archive] == ["./x"]
    members[2] = ("data.tar.zst", data[:-9] + bytes(9))
    with (
        Deb(written(tmp_path / "b.deb", ar(members))) as package,
        pytest.raises(PackageError, match=r"b\.deb: "),
        package.data() as archive,
    ):
        list(archive)


GOOD = [
    ("debian-binary", b"2.0\n"),
    ("control.tar", tar([entry("./control", CONTROL.encode())])),
    ("data.tar", tar([])),
]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no ar archive"),
        (b"!<arch>\n", "no control.tar"),
        (b"!<arch>\n" + b"x" * 60, "no header of an ar member at 0x8"),
        (ar(GOOD)[:-1], "ends behind the file"),
        (ar(GOOD).replace(b"4         `", b"-4        `"), "without a size"),
        (ar(GOOD).replace(b"4         `", b"9999999999`"), "ends behind the file"),
        (ar([("debian-binary", b"3.0\n"), *GOOD[1:]]), "no Debian package of format 2"),
        (ar(GOOD[:2]), "no data.tar"),
        (ar([GOOD[0], GOOD[2]]), "no control.tar"),
        (ar([*GOOD[:2], ("data.tar.rar", b"")]), "unknown way"),
        (ar([GOOD[0], ("control.tar", b"no tar"), GOOD[2]]), "control.tar is damaged"),
        (ar([GOOD[0], ("control.tar.xz", b"no xz"), GOOD[2]]), "control.tar is damaged"),
        (ar([GOOD[0], ("control.tar.gz", b"\x1f\x8bno gz"), GOOD[2]]), "control.tar is damaged"),
        (ar([GOOD[0], ("control.tar.bz2", bz2.compress(b"x" * 999)[:-3]), GOOD[2]]), "control.tar is damaged"),
        (ar([GOOD[0], ("control.tar", tar([entry("./other")])), GOOD[2]]), "no file control"),
        (ar([GOOD[0], ("control.tar", tar([entry("./control", b"x")])), GOOD[2]]), "no field of control data"),
    ],
)  # fmt: skip
def test_what_is_no_package(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(PackageError, match=message), Deb(written(tmp_path / "a.deb", data)) as package:
        package.package()


def test_a_small_package_cannot_fill_the_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    block = header.tobuf(tarfile.GNU_FORMAT)
    data = ar([GOOD[0], ("control.tar", block + bytes(1024)), GOOD[2]])
    with pytest.raises(PackageError, match="longer than any name"):
        Deb(written(tmp_path / "a.deb", data))
    big = tar([entry("./control", CONTROL.encode()), entry("./md5sums", bytes(17 << 20))])
    import lzma

    data = ar([GOOD[0], ("control.tar.xz", lzma.compress(big, preset=0)), GOOD[2]])
    with pytest.raises(PackageError, match="md5sums is too long"):
        Deb(written(tmp_path / "b.deb", data))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_packages_are_refused_with_their_own_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = bytearray(
        deb(
            CONTROL,
            [entry("./usr/"), entry("./usr/x", b"y" * 700), entry("./l", link="usr")],
            pack=data.draw(st.sampled_from(["", ".gz", ".xz"])),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at : at + data.draw(st.integers(1, 3))] = data.draw(st.binary(max_size=4))
    place = tmp_path_factory.mktemp("fuzz")
    (place / "tree").mkdir()
    (place / "canary").write_text("here")
    try:
        with Deb(written(place / "a.deb", bytes(good))) as package, Tree(place / "tree") as tree:
            package.package()
            with package.data() as archive:
                tree.unpack(archive)
    except PackageError:
        pass
    assert sorted(path.name for path in place.iterdir()) == ["a.deb", "canary", "tree"]
    shutil.rmtree(place)


# -- writing below a directory ----------------------------------------------------------------------------------------


def unpack(
    place: Path, entries: Sequence[tuple[tarfile.TarInfo, bytes]], *, format_: int = tarfile.GNU_FORMAT
) -> list[str]:
    place.mkdir(exist_ok=True)
    with (
        Tree(place) as tree,
        tarfile.open(fileobj=io.BytesIO(tar(entries, format_=format_)), mode="r|") as archive,
    ):
        return tree.unpack(archive)


def test_files_directories_links_and_modes(tmp_path: Path) -> None:
    place = tmp_path / "tree"
    paths = unpack(
        place,
        [
            entry("./"), entry("./d/", mode=0o500), entry("./d/run", b"#!", mode=0o4755), entry("./d/secret", b"s", mode=0o640),
            entry("./t/", mode=0o1777), entry("./d/link", link="run"), entry("./d/same", type=tarfile.LNKTYPE, linkname="./d/run"),
            entry("./null", type=tarfile.CHRTYPE), entry("./pipe", type=tarfile.FIFOTYPE), entry("./deep/er/file", b"f"),
        ],
    )  # fmt: skip
    assert paths[:3] == ["/", "/d", "/d/run"]
    assert stat.S_IMODE((place / "d").stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "d/run").stat().st_mode) == 0o755
    assert stat.S_IMODE((place / "d/secret").stat().st_mode) == 0o640
    assert stat.S_IMODE((place / "t").stat().st_mode) == 0o1777
    assert (place / "d/run").stat().st_mtime == 1_000_000_000
    assert (place / "d/link").readlink() == Path("run")
    assert (place / "d/same").samefile(place / "d/run")
    assert not (place / "null").exists()
    assert not (place / "pipe").exists()
    assert (place / "deep/er/file").read_bytes() == b"f"


def test_merged_usr(tmp_path: Path) -> None:
    place = tmp_path / "tree"
    (place / "usr/bin").mkdir(parents=True)
    (place / "bin").symlink_to("usr/bin")
    unpack(
        place,
        [
            entry("./bin/"),
            entry("./bin/sh", b"1"),
            entry("./bin/x", type=tarfile.LNKTYPE, linkname="./bin/sh"),
        ],
    )
    assert (place / "usr/bin/sh").read_bytes() == b"1"
    assert (place / "usr/bin/x").samefile(place / "usr/bin/sh")
    assert (place / "bin").is_symlink()
    # A link does not replace a directory, a file replaces a file, a link a link.
    unpack(place, [entry("./usr", link="elsewhere"), entry("./bin/sh", b"2"), entry("./bin/x", link="sh")])
    assert (place / "usr").is_dir()
    assert not (place / "usr").is_symlink()
    assert (place / "bin/x").readlink() == Path("sh")
    assert (place / "bin/sh").read_bytes() == b"2"


def test_absolute_links_become_relative(tmp_path: Path) -> None:
    place = tmp_path / "tree"
    (place / "usr/lib").mkdir(parents=True)
    (place / "lib").symlink_to("usr/lib")
    unpack(
        place,
        [entry("./etc/conf", b"c"), entry("./lib/conf", link="/etc/conf"), entry("./usr/lib/d/e", link="/")],
    )
    assert (place / "lib/conf").readlink() == Path("../../etc/conf")
    assert (place / "lib/conf").read_bytes() == b"c"
    assert (place / "usr/lib/d/e").readlink() == Path("../../..")


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../escaped", b"x")],
        [entry("./a/../../escaped", b"x")],
        [entry("/escaped", b"x")],
        [entry("./l", link=".."), entry("./l/../../escaped", b"x")],
        [entry("./a", type=tarfile.LNKTYPE, linkname="../outside/file")],
        [entry("./a", type=tarfile.LNKTYPE, linkname="absent")],
        [entry("./d/"), entry("./a", type=tarfile.LNKTYPE, linkname="d")],
        [entry("./f", b""), entry("./f/x", b"")],
        [entry("./d/"), entry("./d", b"")],
        [entry("./loop", link="loop"), entry("./loop/x", b"")],
        [entry("./" + "n" * 300, b"")],
        [entry("./" + "n/" * 3000 + "x", b"")],
        [entry("./empty", link="")],
    ],
)
def test_hostile_archives_are_refused(tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("mine")
    with pytest.raises(PackageError):
        unpack(tmp_path / "tree", entries)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "tree"]
    assert os.listdir(tmp_path / "outside") == ["file"]


@pytest.mark.parametrize(
    "target", ["{}", "../outside", "../../../../../../../../{}", "./../outside", "up/outside"]
)
def test_links_lead_nowhere_but_inside(tmp_path: Path, target: str) -> None:
    """Writing through a link that leads out, seen from the host, lands inside, as in a chroot."""
    outside = tmp_path / "outside"
    outside.mkdir()
    unpack(
        tmp_path / "tree",
        [
            entry("./up", link=".."),
            entry("./l", link=target.format(outside)),
            entry("./l/file", b"x"),
            entry("./l/d/"),
            entry("./m", link="l/file"),
            entry("./m", b"replaced"),
        ],
    )
    assert os.listdir(outside) == []
    assert (tmp_path / "tree/m").read_bytes() == b"replaced"


def test_a_file_replaces_a_link_and_does_not_write_through_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    unpack(tmp_path / "tree", [entry("./l", link=str(mine)), entry("./l", b"x")])
    assert mine.read_text() == "mine"
    unpack(tmp_path / "tree", [entry("./l", link="../mine")])
    with Tree(tmp_path / "tree") as tree:
        tree.write("/l", b"y")
        tree.link("/k", "../mine")
        assert tree.read("/k") is None
    assert mine.read_text() == "mine"


def test_a_directory_that_becomes_a_link_is_seen_at_once(tmp_path: Path) -> None:
    """What was walked before is not believed after a link has changed."""
    unpack(
        tmp_path / "tree",
        [
            entry("./a/"),
            entry("./b/"),
            entry("./l", link="a"),
            entry("./l/1", b""),
            entry("./l", link="b"),
            entry("./l/2", b""),
        ],
    )
    assert os.listdir(tmp_path / "tree/a") == ["1"]
    assert os.listdir(tmp_path / "tree/b") == ["2"]


def test_sparse_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 0
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[386:398], block[398:410] = b"00000000000\0", b"00000000000\0"
    block[483:495] = b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    with (
        tarfile.open(fileobj=io.BytesIO(bytes(block) + bytes(1024)), mode="r|") as archive,
        Tree(tmp_path / "tree") as tree,
        pytest.raises(PackageError, match="sparse"),
    ):
        tree.unpack(archive)


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "usr", "l"]), min_size=1, max_size=4).map("/".join)


@given(st.lists(st.tuples(st.sampled_from("dfsh"), NAMES, NAMES, st.booleans()), max_size=12))
@settings(max_examples=300, deadline=None)
def test_no_archive_writes_outside(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, bool]]
) -> None:
    top = tmp_path_factory.mktemp("hostile")
    (top / "a").mkdir()
    (top / "b").write_text("mine")
    place = top / "tree" / "deep"
    place.mkdir(parents=True)
    before = sorted((str(path), path.lstat().st_mode) for path in top.rglob("*"))
    entries = []
    for kind, name, target, absolute in rows:
        to = f"{top}/{target}" if absolute else target
        if kind == "d":
            entries.append(entry(f"./{name}/"))
        elif kind == "f":
            entries.append(entry(f"./{name}", b"x"))
        else:
            entries.append(
                entry(f"./{name}", type=tarfile.SYMTYPE if kind == "s" else tarfile.LNKTYPE, linkname=to)
            )
    for one in entries:  # each by itself: what is refused does not end it
        with contextlib.suppress(PackageError):
            unpack(place, [one])
    after = sorted((str(p), p.lstat().st_mode) for p in top.rglob("*") if not str(p).startswith(f"{place}/"))
    assert after == before
    assert (top / "b").read_text() == "mine"
    assert (top / "b").stat().st_nlink == 1
    shutil.rmtree(top)


def test_two_commands_cannot_write_in_one_tree(tmp_path: Path) -> None:
    with Tree(tmp_path), pytest.raises(SysrootError, match="another vm sysroot"):
        Tree(tmp_path)


# -- in the place of scripts ------------------------------------------------------------------------------------------


def test_alternatives_are_read_from_scripts() -> None:
    script = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5 \\
        --slave /usr/share/man/man1/awk.1.gz awk.1.gz /usr/share/man/man1/mawk.1.gz \\
        --slave /usr/bin/nawk nawk /usr/bin/mawk
fi
update-alternatives --quiet --install /usr/bin/cc cc /usr/bin/gcc 20 \\

exit 0
"""
    assert alternatives(script) == [
        Alternative(
            "awk", "/usr/bin/awk", "/usr/bin/mawk", 5,
            (("awk.1.gz", "/usr/share/man/man1/awk.1.gz", "/usr/share/man/man1/mawk.1.gz"), ("nawk", "/usr/bin/nawk", "/usr/bin/mawk")),
        ),
        Alternative("cc", "/usr/bin/cc", "/usr/bin/gcc", 20),
    ]  # fmt: skip


def test_alternatives_of_a_script_with_variables_and_loops() -> None:
    script = """\
priority=2111
basedir=/usr/lib/jvm/java
tools='java keytool'
if [ -n "$multiarch" ]; then priority=$(expr $priority - 1); fi
for i in $tools; do
    if [ -e $mandir/$i ]; then
        slave1="--slave \\
            /usr/share/man/man1/$i"
    fi
    update-alternatives \\
        --install \\
        /usr/bin/$i $i ${basedir}/bin/$i $priority \\
        $slave1 $slave2
done
"""
    assert [(one.name, one.path, one.priority) for one in alternatives(script)] == [
        ("java", "/usr/lib/jvm/java/bin/java", 2111),
        ("keytool", "/usr/lib/jvm/java/bin/keytool", 2111),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "--install /usr/bin/$x x /usr/bin/y 1", "--install /usr/bin/x ../x /usr/bin/y 1", "--install usr/x x /usr/y 1",
        "--install /usr/bin/x x /usr/bin/y $(p)", "--install /usr/bin/x x /usr/bin/y", "--remove x /usr/bin/y", "--install 'a",
        "--install /usr/bin/x .. /usr/bin/y 1", "--install --slave a b 1",
    ],
)  # fmt: skip
def test_what_is_no_alternative(text: str) -> None:
    assert alternatives(f"update-alternatives {text}\n") == []


def test_a_script_cannot_keep_its_reader_busy() -> None:
    loops = "".join(f"for v{n} in {'x ' * 50}; do\n" for n in range(12))
    assert alternatives(loops + "update-alternatives --install /a a /b 1\n" + "done\n" * 12)
    doubling = "a=xxxxxxxxxx\n" + 'a="$a$a"\n' * 200
    assert alternatives(doubling) == []


@given(st.text("for i in $a; do\nupdate-alternatives --install '\"\\`()={}done", max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_script_is_read(text: str) -> None:
    alternatives(text)


def test_settling_can_be_repeated_and_keeps_what_is_there(tmp_path: Path) -> None:
    with Tree(tmp_path) as tree:
        tree.write("/usr/share/base-passwd/passwd.master", b"root:*:0:0:root:/root:/bin/bash\n")
        tree.write("/etc/hosts", b"mine\n")
        tree.write("/usr/share/ca-certificates/mozilla/b.crt", b"B\n\n")
        tree.write("/usr/share/ca-certificates/mozilla/a.crt", b"A")
        tree.write("/usr/bin/mawk", b"")
        tree.write("/usr/bin/gawk", b"")
        tree.directory("/var/run")
        line = "update-alternatives --install /usr/bin/awk awk /usr/bin/{} {}\n"
        tree.write("/var/lib/dpkg/info/mawk.postinst", line.format("mawk", 5).encode())
        tree.write("/var/lib/dpkg/info/gone.postinst", line.format("gone", 50).encode())
        settle(tree)
        assert (tmp_path / "usr/bin/awk").resolve() == tmp_path / "usr/bin/mawk"
        tree.write("/var/lib/dpkg/info/gawk.postinst", line.format("gawk", 10).encode())
        settle(tree)
        assert (tmp_path / "usr/bin/awk").resolve() == tmp_path / "usr/bin/gawk"
        assert read_status(tree) == {}
    assert (tmp_path / "etc/passwd").read_text().startswith("root:")
    assert (tmp_path / "etc/hosts").read_text() == "mine\n"
    assert (tmp_path / "etc/ssl/certs/ca-certificates.crt").read_text() == "A\nB\n"
    assert (tmp_path / "etc/ca-certificates.conf").read_text() == "mozilla/a.crt\nmozilla/b.crt\n"
    assert (tmp_path / "var/run").readlink() == Path("../run")
    assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o1777


def test_settling_follows_no_link_out_of_the_tree(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("the host's\n")
    (tmp_path / "tree").mkdir()
    with Tree(tmp_path / "tree") as tree:
        for name in ("etc", "var", "root"):
            os.symlink(outside, tmp_path / "tree" / name)
        tree.write("/usr/share/base-passwd/passwd.master", b"x\n")
        tree.write("/usr/bin/y", b"")
        tree.write("/var/lib/dpkg/info/a.postinst", b"update-alternatives --install /etc/x x /usr/bin/y 1\n")
        settle(tree)
    assert os.listdir(outside) == ["passwd"]
    assert (outside / "passwd").read_text() == "the host's\n"
