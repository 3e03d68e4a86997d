"""softfloat against the host's FPU, flag for flag, and against exact rational arithmetic for what no host has."""

from __future__ import annotations

import ctypes
import mmap
import platform
import random
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from vm_core import softfloat as sf

WIDTHS = (32, 64)
MODES = (sf.RNE, sf.RTZ, sf.RDN, sf.RUP)
INFINITY = {16: 0x7C00, 32: 0x7F80_0000, 64: 0x7FF0_0000_0000_0000}
QUIET = {16: 0x7E00, 32: 0x7FC0_0000, 64: 0x7FF8_0000_0000_0000}
FRACTION = {16: 10, 32: 23, 64: 52}


def edges(fmt: int) -> list[int]:
    """Zeros, subnormals, the borders of every exponent that matters, infinities, NaNs of both kinds."""
    fraction, infinity = FRACTION[fmt], INFINITY[fmt]
    one = (infinity >> 1) & -(1 << fraction)
    least = 1 << fraction
    magnitudes = [
        0,
        1,
        2,
        3,
        least >> 1,
        least - 1,
        least,
        least + 1,
        least * 2,
        one - 1,
        one,
        one + 1,
        one + (least >> 1),
    ]
    magnitudes += [infinity - 1, infinity, infinity + 1, infinity | least >> 1, infinity | least - 1]
    magnitudes += [
        one + k * least
        for k in (1, 2, 3, fraction - 1, fraction, fraction + 1, 31, 32, 63, 64)
        if k < 1 << (fmt - fraction - 3)
    ]
    return magnitudes + [m | 1 << (fmt - 1) for m in magnitudes]


def draw(rng: random.Random, fmt: int) -> int:
    """An edge, a neighbour of one, a number near 1, or any pattern."""
    match rng.randrange(5):
        case 0:
            return rng.choice(edges(fmt))
        case 1:
            return (rng.choice(edges(fmt)) + rng.randrange(-4, 5)) % (1 << fmt)
        case 2:
            one = (INFINITY[fmt] >> 1) & -(1 << FRACTION[fmt])
            exponent = one + (rng.randrange(-3, 4) << FRACTION[fmt])
            return exponent | rng.getrandbits(FRACTION[fmt]) | rng.getrandbits(1) << (fmt - 1)
        case 3:
            # Few significant bits: exact results and ties.
            return rng.getrandbits(fmt) & -(1 << (FRACTION[fmt] - rng.randrange(1, 6)))
    return rng.getrandbits(fmt)


def is_nan(fmt: int, a: int) -> bool:
    return a & ~(1 << (fmt - 1)) > INFINITY[fmt]


def value(fmt: int, a: int) -> Fraction:
    """The exact value of a finite number."""
    fraction = FRACTION[fmt]
    bias = (1 << (fmt - fraction - 2)) - 1
    exponent, rest = (a & ~(1 << (fmt - 1))) >> fraction, a & ((1 << fraction) - 1)
    significand = rest | (1 << fraction if exponent else 0)
    out = Fraction(significand) * Fraction(2) ** (max(exponent, 1) - bias - fraction)
    return -out if a >> (fmt - 1) else out


# -- the host's FPU, called through a stub of machine code -------------------------------------------------------------

_MXCSR_FLAGS = {0x01: sf.NV, 0x04: sf.DZ, 0x08: sf.OF, 0x10: sf.UF, 0x20: sf.NX}
_MXCSR_MODE = {sf.RNE: 0, sf.RDN: 1, sf.RUP: 2, sf.RTZ: 3}


class HostFpu:
    """x86-64 SSE and FMA instructions on bit patterns, with MXCSR in and out. ``run`` gives (bits, flags)."""

    def __init__(self) -> None:
        self._code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._at = 0
        self._csr = (ctypes.c_uint32 * 2)()
        self._csr[1] = 0x1F80
        self._stubs: dict[bytes, Callable[..., int]] = {}

    def run(self, code: bytes, rm: int, *args: int) -> tuple[int, int]:
        self._csr[0] = 0x1F80 | _MXCSR_MODE[rm] << 13
        bits = self._stub(code)(*args, *[0] * (3 - len(args)), ctypes.addressof(self._csr))
        return bits, sum(flag for bit, flag in _MXCSR_FLAGS.items() if self._csr[0] & bit)

    def _stub(self, code: bytes) -> Callable[..., int]:
        if code not in self._stubs:
            body = bytes.fromhex("0fae11 66480f6ec7 66480f6ece 66480f6ed2") + code
            body += bytes.fromhex("0fae19 0fae5104 c3")
            # SAFETY: the stub touches only its argument registers, xmm0-2 and the two words at rcx, which are _csr;
            # it loads MXCSR's default before it returns. The mapping lives as long as this object.
            base = ctypes.addressof(ctypes.c_char.from_buffer(self._code))
            self._code[self._at : self._at + len(body)] = body
            self._stubs[code] = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 4)(base + self._at)
            self._at += len(body)
        return self._stubs[code]


def _host() -> HostFpu | None:
    info = Path("/proc/cpuinfo")
    if platform.machine() not in ("x86_64", "AMD64") or not info.exists() or " fma " not in info.read_text():
        return None
    return HostFpu()


HOST = _host()
needs_host = pytest.mark.skipif(HOST is None, reason="the oracle is an x86-64 Linux host with FMA")

_TO_RAX = bytes.fromhex("66480f7ec0")
_SCALAR = {32: "f3", 64: "f2"}


def sse(fmt: int, opcode: str, modrm: str = "c1", tail: str = "") -> bytes:
    return bytes.fromhex(_SCALAR[fmt] + "0f" + opcode + modrm + tail) + _TO_RAX


def host(fmt: int, code: bytes, rm: int, *args: int) -> tuple[int, int]:
    assert HOST is not None
    bits, flags = HOST.run(code, rm, *args)
    bits &= (1 << fmt) - 1
    return QUIET[fmt] if is_nan(fmt, bits) else bits, flags


BINARY = {"add": "58", "mul": "59", "sub": "5c", "div": "5e"}


@needs_host
@pytest.mark.parametrize("fmt", WIDTHS)
@pytest.mark.parametrize("name", BINARY)
def test_binary_operation_is_the_hosts(name: str, fmt: int) -> None:
    rng = random.Random(f"{name}{fmt}")
    code, function = sse(fmt, BINARY[name]), getattr(sf, name)
    pairs = [(a, b) for a in edges(fmt) for b in edges(fmt)][:: 1 if fmt == 32 else 3]
    for a, b in pairs + [(draw(rng, fmt), draw(rng, fmt)) for _ in range(3000)]:
        for rm in MODES:
            assert function(fmt, a, b, rm) == host(fmt, code, rm, a, b), (hex(a), hex(b), rm)


@needs_host
@pytest.mark.parametrize("fmt", WIDTHS)
def test_sqrt_is_the_hosts(fmt: int) -> None:
    rng = random.Random(fmt)
    for a in edges(fmt) + [draw(rng, fmt) for _ in range(3000)]:
        for rm in MODES:
            assert sf.sqrt(fmt, a, rm) == host(fmt, sse(fmt, "51", "c0"), rm, a), (hex(a), rm)


@needs_host
@pytest.mark.parametrize("fmt", WIDTHS)
def test_fma_is_the_hosts(fmt: int) -> None:
    rng = random.Random(fmt)
    code = bytes.fromhex({32: "c4e271a9c2", 64: "c4e2f1a9c2"}[fmt]) + _TO_RAX
    for _ in range(8000):
        a, b, c = (draw(rng, fmt) for _ in range(3))
        if rng.randrange(4) == 0:
            # Cancellation: c close to -(a * b).
            c = (sf.mul(fmt, a, b, rng.choice(MODES))[0] ^ 1 << (fmt - 1)) + rng.randrange(-1, 2) & (
                1 << fmt
            ) - 1
        for rm in MODES:
            expected = host(fmt, code, rm, a, b, c)
            if sf.mul(fmt, a, b, rm)[1] & sf.NV and is_nan(fmt, c):
                # x86 leaves NV clear for infinity * 0 + a quiet NaN, RISC-V sets it; IEEE 754 allows both.
                expected = expected[0], sf.NV
            assert sf.fma(fmt, a, b, c, rm) == expected, (hex(a), hex(b), hex(c), rm)


@needs_host
@pytest.mark.parametrize("fmt", WIDTHS)
def test_comparison_is_the_hosts(fmt: int) -> None:
    rng = random.Random(fmt)
    quiet = bytes.fromhex({32: "c5fac2c111", 64: "c5fbc2c111"}[fmt]) + _TO_RAX
    codes = {
        "eq": sse(fmt, "c2", "c1", "00"),
        "lt": sse(fmt, "c2", "c1", "01"),
        "le": sse(fmt, "c2", "c1", "02"),
    }
    pairs = [(a, b) for a in edges(fmt) for b in edges(fmt)]
    for a, b in pairs + [(draw(rng, fmt), draw(rng, fmt)) for _ in range(1000)]:
        for name, code in {**codes, "lt_quiet": quiet}.items():
            assert HOST is not None
            bits, flags = HOST.run(code, sf.RNE, a, b)
            assert getattr(sf, name)(fmt, a, b) == (bits & 1, flags), (name, hex(a), hex(b))


@needs_host
def test_conversion_between_formats_is_the_hosts() -> None:
    rng = random.Random(1)
    for rm in MODES:
        for a in (
            edges(64)
            + [draw(rng, 64) for _ in range(2000)]
            + [sf.convert(32, 64, e, 0)[0] for e in edges(32)]
        ):
            for near in (a, a + 1 & (1 << 64) - 1, a + (1 << 28) & (1 << 64) - 1):
                assert sf.convert(64, 32, near, rm) == host(32, sse(64, "5a", "c0"), rm, near), (
                    hex(near),
                    rm,
                )
        for a in edges(32) + [draw(rng, 32) for _ in range(2000)]:
            assert sf.convert(32, 64, a, rm) == host(64, sse(32, "5a", "c0"), rm, a), (hex(a), rm)


@needs_host
@pytest.mark.parametrize("fmt", WIDTHS)
@pytest.mark.parametrize("width", [32, 64])
def test_conversion_from_integers_is_the_hosts(fmt: int, width: int) -> None:
    rng = random.Random(fmt + width)
    code = bytes.fromhex(_SCALAR[fmt] + ("48" if width == 64 else "") + "0f2ac7") + _TO_RAX
    numbers = [0, 1, (1 << width) - 1, 1 << (width - 1), (1 << (width - 1)) - 1]
    numbers += [rng.getrandbits(rng.randrange(1, width + 1)) for _ in range(3000)]
    for a in numbers:
        for rm in MODES:
            assert sf.from_int(fmt, a, width, rm, True) == host(fmt, code, rm, a), (hex(a), rm)
            if width == 32:
                wide = bytes.fromhex(_SCALAR[fmt] + "480f2ac7") + _TO_RAX
                assert sf.from_int(fmt, a, 32, rm, False) == host(fmt, wide, rm, a), (hex(a), rm)


@needs_host
@pytest.mark.parametrize("fmt", WIDTHS)
@pytest.mark.parametrize("width", [32, 64])
def test_conversion_to_integers_is_the_hosts_in_range(fmt: int, width: int) -> None:
    rng = random.Random(fmt + width)
    code = bytes.fromhex(_SCALAR[fmt] + ("48" if width == 64 else "") + "0f2dc0")
    for a in edges(fmt) + [draw(rng, fmt) for _ in range(3000)]:
        for rm in MODES:
            assert HOST is not None
            expected, flags = HOST.run(code, rm, a)
            got = sf.to_int(fmt, a, rm, width, True)
            if flags & sf.NV:
                least, most = 1 << (width - 1), (1 << (width - 1)) - 1
                saturated = least if a >> (fmt - 1) and not is_nan(fmt, a) else most
                assert got == (saturated, sf.NV), (hex(a), rm)
            else:
                assert got == (expected & ((1 << width) - 1), flags), (hex(a), rm)


# -- libm: an oracle on every host ------------------------------------------------------------------------------------


def test_fma_is_libms() -> None:
    try:
        libm = ctypes.CDLL("libm.so.6")
    except OSError:
        libm = ctypes.CDLL(None)
    fma = libm.fma
    fma.restype, fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3
    rng = random.Random(5)
    for _ in range(3000):
        a, b, c = (draw(rng, 64) for _ in range(3))
        floats = [struct.unpack("<d", struct.pack("<Q", x))[0] for x in (a, b, c)]
        bits = struct.unpack("<Q", struct.pack("<d", fma(*floats)))[0]
        assert sf.fma(64, a, b, c, sf.RNE)[0] == (QUIET[64] if is_nan(64, bits) else bits), (
            hex(a),
            hex(b),
            hex(c),
        )


# -- exact arithmetic: ties away, half precision, unsigned ------------------------------------------------------------


@pytest.mark.parametrize("fmt", [16, 32, 64])
def test_ties_away_is_the_nearest_and_the_larger_of_two(fmt: int) -> None:
    rng = random.Random(fmt)
    for _ in range(3000):
        a, b, c = (draw(rng, fmt) for _ in range(3))
        if any(x & ~(1 << (fmt - 1)) >= INFINITY[fmt] for x in (a, b, c)):
            continue
        exact = value(fmt, a) * value(fmt, b) + value(fmt, c)
        bits, flags = sf.fma(fmt, a, b, c, sf.RMM)
        magnitude = bits & ~(1 << (fmt - 1))
        if magnitude == INFINITY[fmt]:
            assert flags == sf.OF | sf.NX
            assert sf.fma(fmt, a, b, c, sf.RNE)[0] == bits
            continue
        error = abs(value(fmt, bits) - exact)
        assert bool(flags & sf.NX) == (error != 0)
        for other in (bits - 1, bits + 1):
            if magnitude == 0 and other < bits or other & ~(1 << (fmt - 1)) >= INFINITY[fmt]:
                continue
            distance = abs(value(fmt, other) - exact)
            assert error < distance or (error == distance and other < bits), (hex(a), hex(b), hex(c))


def test_half_precision_is_that_of_struct() -> None:
    for bits in range(1 << 16):
        number = struct.unpack("<e", struct.pack("<H", bits))[0]
        wide = struct.unpack("<Q", struct.pack("<d", number))[0]
        if is_nan(16, bits):
            assert sf.convert(16, 64, bits, sf.RNE)[0] == QUIET[64]
            continue
        assert sf.convert(16, 64, bits, sf.RNE) == (wide, 0)
        assert sf.convert(64, 16, wide, sf.RTZ) == (bits, 0)
    rng = random.Random(3)
    for _ in range(5000):
        number = rng.uniform(-1, 1) * 2.0 ** rng.randrange(-26, 15)
        expected = struct.unpack("<H", struct.pack("<e", number))[0]
        wide = struct.unpack("<Q", struct.pack("<d", number))[0]
        assert sf.convert(64, 16, wide, sf.RNE)[0] == expected


@pytest.mark.parametrize("fmt", WIDTHS)
@pytest.mark.parametrize("width", [32, 64])
def test_unsigned_integers(fmt: int, width: int) -> None:
    rng = random.Random(fmt + width)
    most = (1 << width) - 1
    for _ in range(3000):
        a = draw(rng, fmt)
        if a & ~(1 << (fmt - 1)) >= INFINITY[fmt]:
            expected = 0 if a == INFINITY[fmt] | 1 << (fmt - 1) else most
            assert sf.to_int(fmt, a, sf.RTZ, width, False) == (expected, sf.NV)
            continue
        exact = value(fmt, a)
        for rm, whole in (
            (sf.RDN, exact.__floor__()),
            (sf.RUP, exact.__ceil__()),
            (sf.RTZ, int(exact)),
            (sf.RNE, round(exact)),
        ):
            if 0 <= whole <= most:
                assert sf.to_int(fmt, a, rm, width, False) == (whole, sf.NX if whole != exact else 0), (
                    hex(a),
                    rm,
                )
            else:
                assert sf.to_int(fmt, a, rm, width, False) == (0 if whole < 0 else most, sf.NV), (hex(a), rm)
        number = rng.getrandbits(width)
        down, up = (sf.from_int(fmt, number, width, rm, False) for rm in (sf.RDN, sf.RUP))
        assert value(fmt, down[0]) <= number
        if up[0] != INFINITY[fmt]:
            assert number <= value(fmt, up[0])
        assert up[0] - down[0] == (1 if down[1] else 0)


# -- single facts of the standard -------------------------------------------------------------------------------------

F, D = 32, 64
ONE, MINUS = {F: 0x3F80_0000, D: 0x3FF0 << 48}, {F: 1 << 31, D: 1 << 63}


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        # x - x is +0, but -0 when rounding down (6.3)
        (sf.sub(F, ONE[F], ONE[F], sf.RNE), (0, 0)),
        (sf.sub(F, ONE[F], ONE[F], sf.RDN), (MINUS[F], 0)),
        # the square root of -0 is -0; of a negative number invalid (5.4.1, 7.2)
        (sf.sqrt(D, MINUS[D], sf.RNE), (MINUS[D], 0)),
        (sf.sqrt(D, ONE[D] | MINUS[D], sf.RNE), (QUIET[D], sf.NV)),
        # 1 / 0 divides by zero, 0 / 0 is invalid (7.3, 7.2)
        (sf.div(F, ONE[F], MINUS[F], sf.RNE), (INFINITY[F] | MINUS[F], sf.DZ)),
        (sf.div(F, 0, 0, sf.RNE), (QUIET[F], sf.NV)),
        # infinity - infinity is invalid; a quiet NaN is not (7.2, 6.2)
        (sf.add(D, INFINITY[D], INFINITY[D] | MINUS[D], sf.RNE), (QUIET[D], sf.NV)),
        (sf.add(D, QUIET[D], ONE[D], sf.RNE), (QUIET[D], 0)),
        (sf.add(D, INFINITY[D] + 1, ONE[D], sf.RNE), (QUIET[D], sf.NV)),
        # infinity * 0 + quiet NaN: NV, as the RISC-V manual requires
        (sf.fma(F, INFINITY[F], 0, QUIET[F], sf.RNE), (QUIET[F], sf.NV)),
        # overflow goes to the largest number where the mode rounds towards it (7.4)
        (sf.mul(F, 0x7F7F_FFFF, 0x4000_0000, sf.RTZ), (0x7F7F_FFFF, sf.OF | sf.NX)),
        (sf.mul(F, 0xFF7F_FFFF, 0x4000_0000, sf.RUP), (0xFF7F_FFFF, sf.OF | sf.NX)),
        # rounded up to the smallest normal number, but below it with an unbounded exponent: tiny (7.5)
        (sf.mul(F, 0x0080_0000, 0x3F7F_FFFF, sf.RNE), (0x0080_0000, sf.NX | sf.UF)),
        (sf.fma(F, 0x0080_0000, ONE[F], 0x8000_0001, sf.RNE), (0x007F_FFFF, 0)),
        # an exact subnormal result does not underflow (7.5)
        (sf.mul(F, 0x0080_0000, 0x3F00_0000, sf.RNE), (0x0040_0000, 0)),
        # 2**24 + 1 is a tie for a single (4.3.1)
        (sf.from_int(F, (1 << 24) + 1, 32, sf.RNE, True), (0x4B80_0000, sf.NX)),
        (sf.from_int(F, (1 << 24) + 1, 32, sf.RMM, True), (0x4B80_0001, sf.NX)),
        # -0.75 is 0 as an unsigned number, but -1 is out of range
        (sf.to_int(F, 0xBF40_0000, sf.RTZ, 32, False), (0, sf.NX)),
        (sf.to_int(F, 0xBF40_0000, sf.RDN, 32, False), (0, sf.NV)),
        (sf.to_int(F, QUIET[F], sf.RTZ, 64, True), ((1 << 63) - 1, sf.NV)),
        # -0 == +0, and neither is less
        (sf.eq(D, 0, MINUS[D]), (1, 0)),
        (sf.lt(D, MINUS[D], 0), (0, 0)),
        (sf.le(F, QUIET[F], 0), (0, sf.NV)),
        (sf.eq(F, QUIET[F], 0), (0, 0)),
    ],
)
def test_fact(got: tuple[int, int], expected: tuple[int, int]) -> None:
    assert got == expected
