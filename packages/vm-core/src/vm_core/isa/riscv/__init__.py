"""RV64GC with Zba, Zbb, Zbs, Zicntr, Zicsr, Zifencei and Zihintpause. RISC-V Unprivileged ISA 20240411.

One module a group of chapters; the state and the field kinds are in :mod:`vm_core.isa.riscv.state`.
"""

from __future__ import annotations

from vm_core.isa.riscv.state import rv as ISA

__all__ = ["ISA"]
