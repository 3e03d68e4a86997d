"""Framing of the debugger's packets: what comes in pieces, broken, too long or hostile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm_core.debug.numbers import error_to_gdb, open_flags, signal_from_gdb, signal_to_gdb
from vm_core.debug.packets import MOST, Broken, Packet, Reader, escape, frame, unescape


def all_of(*pieces):
    reader = Reader()
    return [item for piece in pieces for item in reader.feed(piece)]


def test_packets_and_single_bytes_come_in_order():
    assert all_of(b"+$OK#9a-\x03$m0,4#fd") == [b"+", Packet(b"OK"), b"-", b"\x03", Packet(b"m0,4")]


def test_a_packet_may_come_byte_by_byte():
    data = b"+" + frame(b"vCont;c") + b"\x03"
    assert all_of(*(data[i : i + 1] for i in range(len(data)))) == [b"+", Packet(b"vCont;c"), b"\x03"]


def test_noise_between_packets_is_ignored():
    assert all_of(b"xyz\0" + frame(b"g") + b"junk" + frame(b"?")) == [Packet(b"g"), Packet(b"?")]


@pytest.mark.parametrize("broken", [b"$OK#00", b"$OK#zz", b"$OK#9"])
def test_a_wrong_checksum_is_found(broken):
    found = all_of(broken + b"$" + frame(b"g"))
    assert Packet(b"OK") not in found
    if len(broken) == 6:
        assert found[0] == Broken(long=False)


def test_a_packet_that_begins_anew_forgets_what_was_before():
    assert all_of(b"$m100" + frame(b"g")) == [Packet(b"g")]


def test_a_packet_that_is_too_long_is_dropped_and_the_next_is_read():
    reader = Reader()
    assert list(reader.feed(b"$" + b"a" * MOST)) == []
    assert list(reader.feed(b"b" * MOST)) == []
    assert reader._data == b""
    assert list(reader.feed(b"#00" + frame(b"g"))) == [Broken(long=True), Packet(b"g")]


def test_the_longest_packet_is_taken():
    data = b"a" * MOST
    assert all_of(frame(data)) == [Packet(data)]


@given(st.binary(max_size=200))
def test_binary_data_survives(data):
    travelling = escape(data)
    assert not set(travelling) & set(b"#$*")
    assert unescape(travelling) == data
    assert all_of(frame(travelling)) == [Packet(travelling)]


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes_can_come(pieces):
    for item in all_of(*pieces):
        assert isinstance(item, Packet | Broken) or item in (b"+", b"-", b"\x03")
        if isinstance(item, Packet):
            unescape(item.data)


@given(
    st.lists(
        st.sampled_from([b"$", b"#", b"}", b"+", b"\x03", b"a", b"00", frame(b"g"), frame(b"?")]), max_size=40
    )
)
def test_pieces_do_not_matter(pieces):
    whole = b"".join(pieces)
    assert all_of(*pieces) == all_of(whole) == all_of(*(whole[i : i + 1] for i in range(len(whole))))


def test_signals_have_gdbs_numbers():
    known = {1: 1, 2: 2, 7: 10, 10: 30, 11: 11, 12: 31, 17: 20, 19: 17, 31: 12, 34: 46, 64: 78}
    assert {number: signal_to_gdb(number) for number in known} == known
    assert all(signal_from_gdb(signal_to_gdb(number)) == number for number in range(1, 65) if number != 16)
    assert signal_to_gdb(99) == 143
    assert signal_from_gdb(143) == signal_from_gdb(0) == signal_from_gdb(7) == 0  # 7 is SIGEMT


def test_errors_and_flags_of_files():
    assert [error_to_gdb(number) for number in (2, 13, 36, 40)] == [2, 13, 91, 9999]
    assert open_flags(0x2 | 0x200 | 0x400) == 0o1102
