"""What can be configured, and where each value came from.

One row of :data:`ROWS` is one setting: its key in a TOML file, its environment variables, its flags and its
documentation. Parsing, ``vm config show --origin``, ``vm run --help`` and docs/guide/configuration.md all come from it.

Later layers win: /etc/vm/config.toml, the user's config.toml, ./vm.toml, the environment, flags.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence

from vm_core.errors import ConfigError, UsageError, VmError
from vm_core.hints import Any, Final
from vm_core.record import field, names, record, replace

__all__ = [
    "ROWS",
    "Configuration",
    "Kind",
    "Row",
    "Settings",
    "apply_flags",
    "config_files",
    "load",
    "row_named",
]


@record(frozen=True)
class Settings:
    """Every setting with its type and default. ``None`` means: no limit, or the part's own default."""

    engine: str = "auto"
    accel: str = "auto"
    jit: bool = True
    cache_dir: str | None = None
    fuel: int | None = None
    timeout: float | None = None
    memory: int | None = None
    code_memory: int | None = None
    sysroot: str | None = None
    mirror: str | None = None
    root: str | None = None
    bind: tuple[str, ...] = ()
    net: bool = False
    max_processes: int | None = None
    stack: int | None = None
    uname: str | None = None
    trust: bool = False
    sandbox: str = "auto"
    isolation: str = "on"
    env: tuple[str, ...] = ()
    unset_env: tuple[str, ...] = ()
    strace: bool | str = False
    strace_output: str | None = None
    strace_each: bool = False
    strace_follow: bool = True
    strace_strings: int = 32
    strace_times: tuple[str, ...] = ()
    strace_status: str = "all"
    strace_summary: str | None = None
    strace_json: bool = False
    trace: bool | str = False
    trace_output: str | None = None
    trace_start: str | None = None
    trace_count: int | None = None
    trace_json: bool = False
    stats: bool = False
    log: str = "warning"


# -- kinds of value ---------------------------------------------------------------------------------------------------

_COUNT_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_SIZE_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TIME_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER: Final = r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z]*)"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


@record(frozen=True)
class Kind:
    """How a value is written. ``parse`` takes text and raises ValueError; ``allowed`` says what it takes."""

    name: str
    allowed: str
    parse: Callable[[str], Any]
    repeated: bool = False
    metavar: str = ""
    optional: bool = False
    """Whether the option may stand alone all the same: a value follows behind an equals sign or not at all."""

    @property
    def is_flag(self) -> bool:
        """Whether the option stands alone on the command line."""
        return self.name == "bool" or self.optional


def _quantity(text: str, units: Mapping[str, float]) -> float:
    import re  # PERF: most runs name no quantity

    match = re.fullmatch(_NUMBER, text.strip())
    if match is None:
        raise ValueError(text)
    unit = match[2].lower()
    unit = unit.removesuffix("ib") if unit.removesuffix("ib") in units and unit != "ib" else unit
    if unit not in units:
        raise ValueError(text)
    return float(match[1].replace("_", "")) * units[unit]


def _whole(text: str, units: Mapping[str, int]) -> int:
    plain = text.strip().replace("_", "")
    value = int(plain) if plain.isdecimal() else int(_quantity(text, units))
    if value < 1:
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    value = _quantity(text, _TIME_UNITS)
    if value <= 0:
        raise ValueError(text)
    return value


def _bool(text: str) -> bool:
    low = text.strip().lower()
    if low in _TRUE or low in _FALSE:
        return low in _TRUE
    raise ValueError(text)


def _path(text: str) -> str:
    # PERF: text, because pathlib takes 3 ms to load.
    if not text or "\0" in text:
        raise ValueError(text)
    return os.path.expanduser(text)


def _assignment(text: str) -> str:
    if not text.partition("=")[0] or "=" not in text or "\0" in text:
        raise ValueError(text)
    return text


def _name(text: str) -> str:
    if not text or "=" in text or "\0" in text:
        raise ValueError(text)
    return text


def _text(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError(text)
    return text


_URL: Final = r"https?://(?:[^\s/?#@]+@)?(?:[^\s/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[^\s?#]*)?|file://(?:localhost)?/[^\s?#]*"


def _url(text: str) -> str:
    """Without the slash at its end. A path stands for a file URL."""
    if text.startswith("/"):
        from urllib.parse import quote  # PERF: most have none

        text = f"file://{quote(text)}"
    import re

    # PERF: not urllib.parse, which takes 5 ms to load, of every run.
    if not text.isprintable() or re.fullmatch(_URL, text) is None:
        raise ValueError(text)
    return text.rstrip("/")


def _release(text: str) -> str:
    if not text or "\0" in text or len(os.fsencode(text)) > 64:
        raise ValueError(text)
    return text


def _filter(text: str) -> bool | str:
    """A word for yes or no, or an expression that chooses."""
    low = text.strip().lower()
    if low in _TRUE or low in _FALSE:
        return low in _TRUE
    if not text or any(not part.isprintable() or part.isspace() for part in text):
        raise ValueError(text)
    return text


def _stamp(text: str) -> str:
    if text not in ("r", "t", "tt", "ttt", "T"):
        raise ValueError(text)
    return text


def _choice(*words: str) -> Kind:
    def parse(text: str) -> str:
        if text in words:
            return text
        raise ValueError(text)

    return Kind("choice", " | ".join(words), parse, metavar="|".join(words))


BOOL: Final = Kind("bool", "0 | 1 | true | false | yes | no | on | off", _bool)
COUNT: Final = Kind(
    "count", "a whole number ≥ 1, with k, M or G if you like", lambda t: _whole(t, _COUNT_UNITS), metavar="N"
)
SIZE: Final = Kind(
    "size", "bytes, with K, M, G or T (powers of 1024)", lambda t: _whole(t, _SIZE_UNITS), metavar="SIZE"
)
SECONDS: Final = Kind("seconds", "seconds > 0, with ms, s, m or h if you like", _seconds, metavar="S")
PATH: Final = Kind("path", "a path", _path, metavar="DIR")
URL: Final = Kind("url", "an http, https or file URL", _url, metavar="URL")
ASSIGNMENTS: Final = Kind("assignments", "K=V", _assignment, repeated=True, metavar="K=V")
NAMES: Final = Kind("names", "a variable's name", _name, repeated=True, metavar="K")
BINDS: Final = Kind("binds", "HOST[:GUEST[:ro]]", _text, repeated=True, metavar="SPEC")
ENGINE: Final = _choice("auto", "jit", "baseline", "interp", "reference", "kvm")
ACCEL: Final = _choice("auto", "kvm", "hvf", "whpx", "vz", "none")
RELEASE: Final = Kind("release", "a kernel release of at most 64 bytes", _release, metavar="RELEASE")
ISOLATION: Final = _choice("on", "off")
SANDBOX: Final = _choice("auto", "strict", "off")
CALLS: Final = Kind(
    "calls", "0 | 1, or which calls: open,read,%file,!futex", _filter, metavar="CALLS", optional=True
)
PLACES: Final = Kind(
    "places", "0 | 1, or which: main,0x10400-0x104ff,0x10400+32", _filter, metavar="PLACES", optional=True
)
PLACE: Final = Kind("place", "an address or a function's name", _text, metavar="PLACE")
FILE: Final = Kind("file", "a path", _path, metavar="FILE")
STAMPS: Final = Kind("stamps", "r, t, tt, ttt or T", _stamp, repeated=True, metavar="r|t|tt|ttt|T")
STATUS: Final = _choice("all", "successful", "failed")
SUMMARY: Final = _choice("only", "also")
LOG: Final = _choice("error", "warning", "info", "debug")


# -- the table --------------------------------------------------------------------------------------------------------


@record(frozen=True)
class Row:
    """One setting. ``env`` are its variables, the first wins; ``flags`` its spellings on the command line of vm run, if it
    says anything there."""

    name: str
    kind: Kind
    env: tuple[str, ...]
    flags: tuple[str, ...]
    doc: str
    flag_only: bool = False
    """Whether no file may set it: it is too dangerous to be somebody's default."""
    grants: bool = False
    """Whether it gives a guest more of the host, or its code to a later run: ./vm.toml, which a guest may have written, may not
    set it."""


ROWS: Final[tuple[Row, ...]] = (
    Row("engine", ENGINE, ("VM_ENGINE",), ("--engine",), "What runs guest code; auto takes the fastest one that works here."),
    Row("accel", ACCEL, ("VM_ACCEL",), ("--accel",), "The hypervisor for guests of the host's own ISA; auto takes one that works here, and says so if none does."),
    Row("jit", BOOL, ("VM_ENABLE_JIT",), ("--jit",), "Whether auto may compile hot code; without it, it takes the interpreter."),
    Row("cache_dir", PATH, ("VM_CACHE_DIR",), ("--cache-dir",), "Where compiled code is kept between runs.", grants=True),
    Row("fuel", COUNT, ("VM_FUEL",), ("--fuel",), "Stop after exactly this many guest instructions (exit status 123)."),
    Row("timeout", SECONDS, ("VM_TIMEOUT",), ("--timeout",), "Stop after this much wall time (exit status 124)."),
    Row("memory", SIZE, ("VM_MEMORY",), ("--memory",), "Cap on the guest's memory (exit status 122)."),
    Row("max_processes", COUNT, ("VM_MAX_PROCESSES",), ("--max-processes",), "How many processes the guest may have at a time (4096); one more is EAGAIN."),
    Row("code_memory", SIZE, ("VM_CODE_MEMORY",), ("--code-memory",), "Cap on compiled code; beyond it what was compiled longest ago goes (256M)."),
    Row("sysroot", PATH, ("VM_SYSROOT", "QEMU_LD_PREFIX"), ("-L", "--sysroot"), "Where the guest's dynamic loader and libraries are looked for first.", grants=True),
    Row("mirror", URL, ("VM_MIRROR",), (), "The Debian archive that vm sysroot takes packages from, if not the one of this host's apt. Its --mirror goes first."),
    Row("root", PATH, ("VM_ROOT",), ("--root",), "The guest sees only this directory, as its /.", grants=True),
    Row("bind", BINDS, ("VM_BIND",), ("--bind",), "Show the guest this host file or directory too. May be repeated.", grants=True),
    Row("net", BOOL, ("VM_NET",), ("--net",), "Let the guest use the network.", grants=True),
    Row("trust", BOOL, ("VM_TRUST",), ("--trust",), "As qemu-user: the guest is a program of yours, with the host's files, network and devices, and nothing holds it back. Not in a file.", flag_only=True),
    Row("sandbox", SANDBOX, ("VM_SANDBOX",), ("--sandbox",), "What the host's kernel enforces on vm's own process: all that it can, all or the run is refused, or nothing.", grants=True),
    Row("stack", SIZE, ("VM_STACK", "QEMU_STACK_SIZE"), ("-s", "--stack"), "Size of the guest's stack (8M)."),
    Row("uname", RELEASE, ("VM_UNAME", "QEMU_UNAME"), ("-r", "--uname"), "The kernel release that the guest sees."),
    Row("isolation", ISOLATION, (), ("--isolation",), "UNSAFE when off, for measurements: compiled code believes the guest's addresses, so a guest can reach all of vm's own process. Only as a flag.", flag_only=True),
    Row("env", ASSIGNMENTS, ("VM_ENV", "QEMU_SET_ENV"), ("-E", "--env"), "Set a variable in the guest's environment. May be repeated."),
    Row("unset_env", NAMES, ("VM_UNSET_ENV", "QEMU_UNSET_ENV"), ("-U", "--unset-env"), "Take a variable out of the guest's environment. May be repeated."),
    Row("strace", CALLS, ("VM_STRACE", "QEMU_STRACE"), ("--strace", "-strace"), "Print the guest's system calls on standard error, all or (--strace=CALLS) some: names, %file, %network and other classes, /expressions; what stands behind a ! is left out."),
    Row("strace_output", FILE, ("VM_STRACE_OUTPUT",), ("--strace-output",), "Write the system calls to this file; %d is the process's number.", grants=True),
    Row("strace_each", BOOL, ("VM_STRACE_EACH",), ("--strace-each",), "A file for each thread, whose name ends in its number.", grants=True),
    Row("strace_follow", BOOL, ("VM_STRACE_FOLLOW",), ("--strace-follow",), "Whether child processes are traced too (yes)."),
    Row("strace_strings", COUNT, ("VM_STRACE_STRINGS",), ("--strace-strings",), "How many bytes of a string are shown (32)."),
    Row("strace_times", STAMPS, ("VM_STRACE_TIMES",), ("--strace-times",), "r: seconds since the last line; t, tt, ttt: when it was; T: how long a call took. May be repeated."),
    Row("strace_status", STATUS, ("VM_STRACE_STATUS",), ("--strace-status",), "Show only calls that succeed, or that fail."),
    Row("strace_summary", SUMMARY, ("VM_STRACE_SUMMARY",), ("--strace-summary",), "A table of calls, errors and processor time at the end, instead of the lines or with them."),
    Row("strace_json", BOOL, ("VM_STRACE_JSON",), ("--strace-json",), "Each line of the trace is a JSON object."),
    Row("trace", PLACES, ("VM_TRACE",), ("--trace",), "Print each instruction with the registers that it changes and the memory that it touches; with --trace=PLACES those of some functions and addresses."),
    Row("trace_output", FILE, ("VM_TRACE_OUTPUT",), ("--trace-output",), "Write the instructions to this file; %d is the process's number.", grants=True),
    Row("trace_start", PLACE, ("VM_TRACE_START",), ("--trace-start",), "Begin when this function or address is reached; the program runs at full speed until then."),
    Row("trace_count", COUNT, ("VM_TRACE_COUNT",), ("--trace-count",), "Show so many instructions, and no more."),
    Row("trace_json", BOOL, ("VM_TRACE_JSON",), ("--trace-json",), "Each line is a JSON object."),
    Row("stats", BOOL, ("VM_STATS",), ("--stats",), "Print at the end what ran where."),
    Row("log", LOG, ("VM_LOG",), ("--log",), "The least important messages that are shown."),
)  # fmt: skip

_BY_NAME: Final = {row.name: row for row in ROWS}


def row_named(name: str) -> Row:
    """The row of a setting. Raises ConfigError with a suggestion for a name that is none."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    raise ConfigError(f"there is no setting {name!r}", hint=_suggest(name, _BY_NAME))


def _suggest(word: str, words: Mapping[str, object] | Sequence[str]) -> str:
    import difflib  # only for a mistake

    near = difflib.get_close_matches(word, list(words), 1)
    return f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(words)


# -- layers -----------------------------------------------------------------------------------------------------------


@record()
class Configuration:
    """The settings in force. ``origins`` tells for each one that is not the default where it was set."""

    settings: Settings = field(default_factory=Settings)
    origins: dict[str, str] = field(default_factory=dict)

    def set(self, name: str, value: object, origin: str) -> None:
        """A layer's value for a setting; lists replace what earlier layers said."""
        changes: dict[str, Any] = {name: value}
        self.settings = replace(self.settings, **changes)
        self.origins[name] = origin

    def value(self, name: str) -> Any:
        return getattr(self.settings, name)

    def origin(self, name: str) -> str:
        return self.origins.get(name, "default")


def parse(row: Row, text: str, where: str, error: type[VmError] = ConfigError) -> object:
    """The value that ``text`` stands for. Raises ``error``, which names ``where`` and what would be allowed."""
    try:
        return row.kind.parse(text)
    except (ValueError, OverflowError):
        raise error(
            f"{where}: {text!r} is no value for {row.name}", hint=f"allowed: {row.kind.allowed}"
        ) from None


_HERE: Final = "vm.toml"


def config_files(environ: Mapping[str, str]) -> list[str]:
    """The files that may hold settings, weakest first. VM_CONFIG names the only one; empty, there is none."""
    chosen = environ.get("VM_CONFIG")
    if chosen is not None:
        return [chosen] if chosen else []
    home = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return ["/etc/vm/config.toml", os.path.join(home, "vm", "config.toml"), _HERE]


def load(environ: Mapping[str, str]) -> Configuration:
    """Read all layers below the flags. Raises ConfigError."""
    configuration = Configuration()
    for path in config_files(environ):
        _read_file(path, configuration, required="VM_CONFIG" in environ)
    for row in ROWS:
        for variable in row.env:
            text = environ.get(variable)
            if text is None or (text == "" and variable != "QEMU_STRACE"):
                continue
            configuration.set(row.name, _from_variable(row, variable, text), f"environment {variable}")
            break
    return configuration


def _from_variable(row: Row, variable: str, text: str) -> object:
    if variable == "QEMU_STRACE":  # qemu asks only whether it is there
        return True
    if row.kind.repeated:
        return tuple(parse(row, part, variable) for part in text.split(","))
    return parse(row, text, variable)


def _read_file(path: str, configuration: Configuration, *, required: bool) -> None:
    try:
        # O_NONBLOCK: a FIFO of that name in somebody's directory must be refused, not waited for.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise ConfigError(f"{path} is not a regular file")
            # A vm.toml that someone else left in a shared directory must not open the network or a bind to the guest.
            if info.st_uid not in (0, os.geteuid()) or info.st_mode & stat.S_IWOTH:
                raise ConfigError(
                    f"{path} belongs to another user or can be written by anyone, so it is not trusted",
                    hint="own it, or set VM_CONFIG= (empty) to read no configuration file",
                )
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise ConfigError(f"VM_CONFIG: there is no {path}") from None
        return
    except OSError as error:
        if not required and isinstance(error, PermissionError):
            return  # /etc/vm of an administrator who lets only others read it
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    import tomllib  # 20 ms, and most runs have no file

    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    for key, value in document.items():
        row = _BY_NAME.get(key)
        if row is None:
            raise ConfigError(f"{path}: there is no setting {key!r}", hint=_suggest(key, _BY_NAME))
        parsed = _from_toml(row, value, path)
        if row.grants and not required:
            # VM_CONFIG would say that it is meant.
            _check_grant(row, path)
        configuration.set(key, parsed, path)


def _check_grant(row: Row, path: str) -> None:
    """Refuse what a guest of an earlier run could have left for the next one. Raises ConfigError."""
    if path == _HERE:
        raise ConfigError(
            f"{path}: {row.name} gives a guest more, and guests can write in the current directory",
            hint=f"put it in ~/.config/vm/config.toml, or give {row.flags[-1]} or VM_CONFIG={path} with the run",
        )


def _from_toml(row: Row, value: object, path: str) -> object:
    where = f"{path}: {row.name}"
    if row.flag_only:
        raise ConfigError(f"{where} cannot be set in a file", hint=f"give {row.flags[0]} with the run")
    if row.kind.repeated:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{where} must be a list of strings", hint=f"each one: {row.kind.allowed}")
        return tuple(parse(row, item, where) for item in value)
    if row.kind is BOOL:
        if not isinstance(value, bool):
            raise ConfigError(f"{where} must be true or false")
        return value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ConfigError(f"{where}: {value!r} is no value for it", hint=f"allowed: {row.kind.allowed}")
    return parse(row, str(value), where)


def apply_flags(configuration: Configuration, flags: Sequence[tuple[str, str, str]]) -> None:
    """Put the command line on top: ``(setting, text, spelling)`` each, bools as "1" and "0". Raises UsageError."""
    for what in ("strace", "trace"):
        # How a trace is to look asks for one.
        how = [spelling for name, _, spelling in flags if name.startswith(what + "_")]
        if how and not configuration.value(what):
            configuration.set(what, True, f"flag {how[0]}")
    seen = {"env"}  # -E adds to what the layers below set; the other lists start anew
    for name, text, spelling in flags:
        row = _BY_NAME[name]
        value = parse(row, text, spelling, UsageError)
        if row.kind.repeated:
            value = (*(configuration.value(name) if name in seen else ()), value)
            seen.add(name)
        configuration.set(name, value, f"flag {spelling}")


assert {row.name for row in ROWS} == set(names(Settings)), "one row a setting"
