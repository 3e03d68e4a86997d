"""A small client of gdb's remote protocol, and a guest under a debugger, for tests without gdb."""

from __future__ import annotations

import re
import socket
import threading
from typing import Any, Final, Self

from vm_core.debug.packets import Packet, Reader, escape, frame, unescape
from vm_core.debug.server import Server
from vm_core.runner import RunResult, run

__all__ = ["Client", "Debugged"]

_SECONDS: Final = 60.0
_STOP: Final = re.compile(r"T(..)(.*)\Z", re.DOTALL)


class Client:
    """One connection. Answers are the data of packets, as bytes, unescaped."""

    def __init__(self, place: tuple[str, int] | str) -> None:
        self.socket = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
        self.socket.settimeout(_SECONDS)
        self.socket.connect(place)
        self._reader = Reader()
        self._come: list[bytes] = []

    def start(self, *features: str) -> bytes:
        """What gdb begins with. Returns the stub's features."""
        known = self.ask("qSupported:" + ";".join(("multiprocess+", "swbreak+", "hwbreak+", *features)))
        assert self.ask("QStartNoAckMode") == b"OK"
        self.socket.sendall(b"+")
        return known

    def send(self, data: bytes | str) -> None:
        """A packet whose answer is read with :meth:`receive`."""
        self.socket.sendall(frame(data.encode() if isinstance(data, str) else data))

    def receive(self) -> bytes:
        """The next packet. Raises EOFError at the end of the connection."""
        while not self._come:
            received = self.socket.recv(1 << 16)
            if not received:
                raise EOFError
            self._come += [
                unescape(item.data) for item in self._reader.feed(received) if isinstance(item, Packet)
            ]
        return self._come.pop(0)

    def ask(self, data: bytes | str) -> bytes:
        """A packet and its answer."""
        self.send(data)
        return self.receive()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.socket.sendall(b"\x03")

    def monitor(self, words: str) -> str:
        """A monitor command's text."""
        answer = self.ask("qRcmd," + words.encode().hex())
        return "" if answer == b"OK" else bytes.fromhex(answer.decode()).decode()

    def resume(self, action: str = "c") -> dict[str, str]:
        """vCont, and the stop that follows, as :meth:`stop` has it."""
        return self.stop(self.ask(f"vCont;{action}"))

    @staticmethod
    def stop(answer: bytes) -> dict[str, str]:
        """A stop reply's parts; ``signal`` is gdb's number."""
        found = _STOP.match(answer.decode())
        assert found is not None, answer
        parts = (part.partition(":") for part in found[2].split(";") if part)
        return {"signal": str(int(found[1], 16)), **{name: value for name, _, value in parts}}

    def register(self, number: int) -> int:
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}").decode()), "little")

    def set_register(self, number: int, value: int, size: int = 8) -> None:
        assert self.ask(f"P{number:x}={value.to_bytes(size, 'little').hex()}") == b"OK"

    def read(self, address: int, length: int) -> bytes:
        return bytes.fromhex(self.ask(f"m{address:x},{length:x}").decode())

    def write(self, address: int, data: bytes) -> None:
        assert self.ask(b"X%x,%x:" % (address, len(data)) + escape(data)) == b"OK"

    def transfer(self, what: str, annex: str = "") -> bytes:
        """A whole object of qXfer, in small pieces."""
        out = b""
        while True:
            answer = self.ask(f"qXfer:{what}:read:{annex}:{len(out):x},100")
            assert answer[:1] in (b"m", b"l"), answer
            out += answer[1:]
            if answer[:1] == b"l":
                return out

    def threads(self) -> list[str]:
        out: list[str] = []
        answer = self.ask("qfThreadInfo")
        while answer.startswith(b"m"):
            out += answer[1:].decode().split(",")
            answer = self.ask("qsThreadInfo")
        return out

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Debugged:
    """A guest in a host thread of its own, which waits for a debugger; ``options`` are those of :func:`vm_core.run`."""

    def __init__(self, argv: list[str], *, address: str = "0", **options: Any) -> None:
        self.server = Server(address)
        self.result: RunResult | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(argv, options), daemon=True)
        self._thread.start()

    def _run(self, argv: list[str], options: dict[str, Any]) -> None:
        try:
            self.result = run(argv, gdb=self.server, **options)
        except BaseException as error:  # noqa: BLE001 - ended() raises it
            self.error = error
        finally:
            self.server.close()

    def connect(self) -> Client:
        """A client that has said nothing yet."""
        address = self.server.address
        return Client(address.path or (address.host, address.port))

    def client(self, *features: str) -> Client:
        """A client that has begun."""
        client = self.connect()
        client.start(*features)
        return client

    def ended(self) -> RunResult:
        """How the guest ended. Raises what its run raised."""
        self._thread.join(_SECONDS)
        assert not self._thread.is_alive(), "the guest still runs"
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.server.debugger.process.end("stopped")
            self._thread.join(_SECONDS)
