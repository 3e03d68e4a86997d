"""AArch64 (A64): a slice of the base and SIMD instructions. Arm ARM DDI 0487K, one file for each table of C4.1."""

from __future__ import annotations

from vm_core.isa.aarch64.state import ISA

__all__ = ["ISA"]
