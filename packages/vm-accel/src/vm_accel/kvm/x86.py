"""What KVM is on x86-64: structures, ioctls, and where each register of the interface lies in them.

Documentation/virt/kvm/api.rst; <asm/kvm.h>.
"""

from __future__ import annotations

from typing import Final

from vm_accel.kvm.abi import Call

__all__ = ["CALLS", "GENERAL", "SEGMENTS", "STRUCTURES", "SYSTEM", "TABLES"]

STRUCTURES: Final = """
struct kvm_regs { uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags; };
struct kvm_segment { uint64_t base; uint32_t limit; uint16_t selector; uint8_t type, present, dpl, db, s, l, g, avl, unusable, padding; };
struct kvm_dtable { uint64_t base; uint16_t limit, padding[3]; };
struct kvm_sregs {
    struct kvm_segment cs, ds, es, fs, gs, ss, tr, ldt;
    struct kvm_dtable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base, interrupt_bitmap[4];
};
struct kvm_vcpu_events {
    struct { uint8_t injected, nr, has_error_code, pending; uint32_t error_code; } exception;
    struct { uint8_t injected, nr, soft, shadow; } interrupt;
    struct { uint8_t injected, pending, masked, pad; } nmi;
    uint32_t sipi_vector, flags;
    struct { uint8_t smm, pending, smm_inside_nmi, latched_init; } smi;
    struct { uint8_t pending; } triple_fault;
    uint8_t reserved[26], exception_has_payload;
    uint64_t exception_payload;
};
struct kvm_sync_regs { struct kvm_regs regs; struct kvm_sregs sregs; struct kvm_vcpu_events events; };
struct kvm_msr_entry { uint32_t index, reserved; uint64_t data; };
struct kvm_msrs { uint32_t nmsrs, pad; };
struct kvm_msr_list { uint32_t nmsrs; };
struct kvm_cpuid2 { uint32_t nent, padding; };
struct kvm_cpuid_entry2 { uint32_t function, index, flags, eax, ebx, ecx, edx, padding[3]; };
struct kvm_lapic_state { uint8_t regs[1024]; };
struct kvm_debugregs { uint64_t db[4], dr6, dr7, flags, reserved[9]; };
struct kvm_xsave { uint32_t region[1024]; };
struct kvm_xcr { uint32_t xcr, reserved; uint64_t value; };
struct kvm_xcrs { uint32_t nr_xcrs, flags; struct kvm_xcr xcrs[16]; uint64_t padding[16]; };
struct kvm_debug_exit_arch { uint32_t exception, pad; uint64_t pc, dr6, dr7; };
struct kvm_guest_debug_arch { uint64_t debugreg[8]; };
struct kvm_irqchip { uint32_t chip_id, pad; uint8_t chip[512]; };
struct kvm_one_word { uint64_t word; };
struct kvm_pit_config { uint32_t flags, pad[15]; };
struct kvm_pit_state2 { uint8_t channels[72]; uint32_t flags, reserved[9]; };
"""
"""Variable parts (MSRs, CPUID leaves, XSAVE beyond 4 KiB) follow their structure in a buffer of the caller's."""

CALLS: Final[dict[str, Call]] = {
    "KVM_GET_MSR_INDEX_LIST": Call("RW", 0x02, "kvm_msr_list"),
    "KVM_GET_SUPPORTED_CPUID": Call("RW", 0x05, "kvm_cpuid2"),
    "KVM_SET_TSS_ADDR": Call("", 0x47),
    "KVM_SET_IDENTITY_MAP_ADDR": Call("W", 0x48, "kvm_one_word"),
    "KVM_CREATE_IRQCHIP": Call("", 0x60),
    "KVM_GET_IRQCHIP": Call("RW", 0x62, "kvm_irqchip"),
    "KVM_SET_IRQCHIP": Call("R", 0x63, "kvm_irqchip"),
    "KVM_CREATE_PIT2": Call("W", 0x77, "kvm_pit_config"),
    "KVM_GET_REGS": Call("R", 0x81, "kvm_regs"),
    "KVM_SET_REGS": Call("W", 0x82, "kvm_regs"),
    "KVM_GET_SREGS": Call("R", 0x83, "kvm_sregs"),
    "KVM_SET_SREGS": Call("W", 0x84, "kvm_sregs"),
    "KVM_INTERRUPT": Call("W", 0x86, "kvm_interrupt"),
    "KVM_GET_MSRS": Call("RW", 0x88, "kvm_msrs"),
    "KVM_SET_MSRS": Call("W", 0x89, "kvm_msrs"),
    "KVM_GET_LAPIC": Call("R", 0x8E, "kvm_lapic_state"),
    "KVM_SET_LAPIC": Call("W", 0x8F, "kvm_lapic_state"),
    "KVM_SET_CPUID2": Call("W", 0x90, "kvm_cpuid2"),
    "KVM_NMI": Call("", 0x9A),
    "KVM_GET_VCPU_EVENTS": Call("R", 0x9F, "kvm_vcpu_events"),
    "KVM_SET_VCPU_EVENTS": Call("W", 0xA0, "kvm_vcpu_events"),
    "KVM_GET_PIT2": Call("R", 0x9F, "kvm_pit_state2"),
    "KVM_SET_PIT2": Call("W", 0xA0, "kvm_pit_state2"),
    "KVM_GET_DEBUGREGS": Call("R", 0xA1, "kvm_debugregs"),
    "KVM_SET_DEBUGREGS": Call("W", 0xA2, "kvm_debugregs"),
    "KVM_SET_TSC_KHZ": Call("", 0xA2),
    "KVM_GET_TSC_KHZ": Call("", 0xA3),
    "KVM_GET_XSAVE": Call("R", 0xA4, "kvm_xsave"),
    "KVM_SET_XSAVE": Call("W", 0xA5, "kvm_xsave"),
    "KVM_GET_XSAVE2": Call("R", 0xCF, "kvm_xsave"),
    "KVM_GET_XCRS": Call("R", 0xA6, "kvm_xcrs"),
    "KVM_SET_XCRS": Call("W", 0xA7, "kvm_xcrs"),
}

GENERAL: Final = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags",
)  # fmt: skip
"""In the order of kvm_regs, each 64 bits."""
SEGMENTS: Final = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
TABLES: Final = ("gdt", "idt")
SYSTEM: Final = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")
