"""Decode an instruction, and print what it means: its text, where it is defined, and the template all engines run."""

from __future__ import annotations

from vm_core import isa as isas


def main() -> None:
    rv64 = isas.get("rv64")
    insn = rv64.decode(bytes.fromhex("13 85 05 ff"), pc=0x1000)
    print(insn.text())
    file, line = insn.encoding.source
    print(f"defined in {file}:{line}")
    print(insn.template)


if __name__ == "__main__":
    main()
