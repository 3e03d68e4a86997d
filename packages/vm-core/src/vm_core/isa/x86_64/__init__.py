"""x86-64: a slice of the integer and SSE2 instructions. Intel SDM 325462-083."""

from __future__ import annotations

from vm_core.isa.x86_64 import alu, flow, sse, string, system
from vm_core.isa.x86_64.decode import ISA

__all__ = ["ISA", "alu", "flow", "sse", "string", "system"]
