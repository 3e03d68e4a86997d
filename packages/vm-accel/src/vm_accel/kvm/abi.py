"""KVM's structures and ioctl numbers that are the same on every host; what an ISA adds comes from its own module.

Documentation/virt/kvm/api.rst; the names are those of <linux/kvm.h>. An ioctl's number holds the size of its structure, which
differs between hosts, so it is computed from the layout and never written down.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import cffi

__all__ = ["CALLS", "EXITS", "FUNCTIONS", "STRUCTURES", "Call", "Capability", "foreign", "numbers"]

FUNCTIONS: Final = """
int open(const char *path, int flags);
int close(int fd);
int ioctl(int fd, unsigned long request, void *argument);
void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset);
int munmap(void *address, size_t length);
int abs(int number);
void *signal(int number, void *handler);
long syscall(long number, long a, long b, long c);
"""
"""ioctl is declared with its three arguments: a call that cffi knows to be variadic takes 0.5 µs more. Linux passes both alike
on x86-64, and so do arm64 and riscv64."""

STRUCTURES: Final = """
struct kvm_run {
    uint8_t request_interrupt_window, immediate_exit, padding1[6];
    uint32_t exit_reason;
    uint8_t ready_for_interrupt_injection, if_flag;
    uint16_t flags;
    uint64_t cr8, apic_base;
    union {
        struct { uint64_t hardware_exit_reason; } hw;
        struct { uint64_t hardware_entry_failure_reason; uint32_t cpu; } fail_entry;
        struct { uint32_t exception, error_code; } ex;
        struct { uint8_t direction, size; uint16_t port; uint32_t count; uint64_t data_offset; } io;
        struct { struct kvm_debug_exit_arch arch; } debug;
        struct { uint64_t phys_addr; uint8_t data[8]; uint32_t len; uint8_t is_write; } mmio;
        struct { uint64_t nr, args[6], ret; uint32_t longmode, pad; } hypercall;
        struct { uint32_t suberror, ndata; uint64_t data[16]; } internal;
        struct { uint32_t type, ndata; uint64_t data[16]; } system_event;
        struct { uint64_t esr_iss, fault_ipa; } arm_nisv;
        struct { uint8_t error, pad[7]; uint32_t reason, index; uint64_t data; } msr;
        struct { uint64_t extension_id, function_id, args[6], ret[2]; } riscv_sbi;
        struct { uint64_t csr_num, new_value, write_mask, ret_value; } riscv_csr;
        char padding[256];
    };
    uint64_t kvm_valid_regs, kvm_dirty_regs;
    union { struct kvm_sync_regs regs; char padding[2048]; } s;
};
struct kvm_userspace_memory_region { uint32_t slot, flags; uint64_t guest_phys_addr, memory_size, userspace_addr; };
struct kvm_dirty_log { uint32_t slot, padding1; union { void *dirty_bitmap; uint64_t padding2; }; };
struct kvm_dirty_gfn { uint32_t flags, slot; uint64_t offset; };
struct kvm_coalesced_mmio_zone { uint64_t addr; uint32_t size, pio; };
struct kvm_coalesced_mmio { uint64_t phys_addr; uint32_t len, pio; uint8_t data[8]; };
struct kvm_irq_level { uint32_t irq, level; };
struct kvm_irqfd { uint32_t fd, gsi, flags, resamplefd; uint8_t pad[16]; };
struct kvm_ioeventfd { uint64_t datamatch, addr; uint32_t len; int32_t fd; uint32_t flags; uint8_t pad[36]; };
struct kvm_enable_cap { uint32_t cap, flags; uint64_t args[4]; uint8_t pad[64]; };
struct kvm_msi { uint32_t address_lo, address_hi, data, flags, devid; uint8_t pad[12]; };
struct kvm_irq_routing { uint32_t nr, flags; };
struct kvm_irq_routing_entry {
    uint32_t gsi, type, flags, pad;
    union {
        struct { uint32_t irqchip, pin; } irqchip;
        struct { uint32_t address_lo, address_hi, data, devid; } msi;
        uint32_t pad[8];
    } u;
};
struct kvm_clock_data { uint64_t clock; uint32_t flags, pad0; uint64_t realtime, host_tsc; uint32_t pad[4]; };
struct kvm_mp_state { uint32_t mp_state; };
struct kvm_translation { uint64_t linear_address, physical_address; uint8_t valid, writeable, usermode, pad[5]; };
struct kvm_guest_debug { uint32_t control, pad; struct kvm_guest_debug_arch arch; };
struct kvm_interrupt { uint32_t irq; };
struct kvm_one_reg { uint64_t id, addr; };
struct kvm_create_device { uint32_t type, fd, flags; };
struct kvm_device_attr { uint32_t flags, group; uint64_t attr, addr; };
"""
"""Behind those of the host's ISA (kvm_sync_regs, kvm_debug_exit_arch, kvm_guest_debug_arch), which these hold."""


class Call(NamedTuple):
    """An ioctl: direction as in <asm-generic/ioctl.h> (``W`` the kernel reads), number, structure or "" for none."""

    direction: str
    number: int
    structure: str = ""


CALLS: Final[dict[str, Call]] = {
    "KVM_GET_API_VERSION": Call("", 0x00),
    "KVM_CREATE_VM": Call("", 0x01),
    "KVM_CHECK_EXTENSION": Call("", 0x03),
    "KVM_GET_VCPU_MMAP_SIZE": Call("", 0x04),
    "KVM_CREATE_VCPU": Call("", 0x41),
    "KVM_GET_DIRTY_LOG": Call("W", 0x42, "kvm_dirty_log"),
    "KVM_SET_USER_MEMORY_REGION": Call("W", 0x46, "kvm_userspace_memory_region"),
    "KVM_IRQ_LINE": Call("W", 0x61, "kvm_irq_level"),
    "KVM_REGISTER_COALESCED_MMIO": Call("W", 0x67, "kvm_coalesced_mmio_zone"),
    "KVM_UNREGISTER_COALESCED_MMIO": Call("W", 0x68, "kvm_coalesced_mmio_zone"),
    "KVM_SET_GSI_ROUTING": Call("W", 0x6A, "kvm_irq_routing"),
    "KVM_IRQFD": Call("W", 0x76, "kvm_irqfd"),
    "KVM_IOEVENTFD": Call("W", 0x79, "kvm_ioeventfd"),
    "KVM_SET_CLOCK": Call("W", 0x7B, "kvm_clock_data"),
    "KVM_GET_CLOCK": Call("R", 0x7C, "kvm_clock_data"),
    "KVM_RUN": Call("", 0x80),
    "KVM_TRANSLATE": Call("RW", 0x85, "kvm_translation"),
    "KVM_GET_MP_STATE": Call("R", 0x98, "kvm_mp_state"),
    "KVM_SET_MP_STATE": Call("W", 0x99, "kvm_mp_state"),
    "KVM_SET_GUEST_DEBUG": Call("W", 0x9B, "kvm_guest_debug"),
    "KVM_ENABLE_CAP": Call("W", 0xA3, "kvm_enable_cap"),
    "KVM_SIGNAL_MSI": Call("W", 0xA5, "kvm_msi"),
    "KVM_RESET_DIRTY_RINGS": Call("", 0xC7),
}


class Capability:
    """KVM_CAP_*: what KVM_CHECK_EXTENSION is asked."""

    IRQCHIP: Final = 0
    SET_TSS_ADDR: Final = 4
    NR_MEMSLOTS: Final = 10
    COALESCED_MMIO: Final = 15
    SET_GUEST_DEBUG: Final = 23
    IRQFD: Final = 32
    PIT2: Final = 33
    IOEVENTFD: Final = 36
    XSAVE: Final = 55
    XCRS: Final = 56
    MAX_VCPUS: Final = 66
    SYNC_REGS: Final = 74
    READONLY_MEM: Final = 81
    IMMEDIATE_EXIT: Final = 136
    COALESCED_PIO: Final = 162
    X86_USER_SPACE_MSR: Final = 188
    DIRTY_LOG_RING: Final = 192
    XSAVE2: Final = 208
    DIRTY_LOG_RING_ACQ_REL: Final = 223


EXITS: Final[dict[int, str]] = {
    0: "UNKNOWN", 1: "EXCEPTION", 2: "IO", 3: "HYPERCALL", 4: "DEBUG", 5: "HLT", 6: "MMIO", 7: "IRQ_WINDOW_OPEN",
    8: "SHUTDOWN", 9: "FAIL_ENTRY", 10: "INTR", 11: "SET_TPR", 12: "TPR_ACCESS", 16: "NMI", 17: "INTERNAL_ERROR",
    24: "SYSTEM_EVENT", 26: "IOAPIC_EOI", 27: "HYPERV", 28: "ARM_NISV", 29: "X86_RDMSR", 30: "X86_WRMSR",
    31: "DIRTY_RING_FULL", 32: "AP_RESET_HOLD", 33: "X86_BUS_LOCK", 35: "RISCV_SBI", 36: "RISCV_CSR", 37: "NOTIFY",
    39: "MEMORY_FAULT",
}  # fmt: skip
"""KVM_EXIT_*."""


def foreign(isa_structures: str) -> Any:
    """An FFI object that knows the C library's calls and all of KVM's structures on a host of one ISA."""
    ffi = cffi.FFI()
    ffi.cdef(FUNCTIONS + isa_structures + STRUCTURES)
    return ffi


def numbers(ffi: Any, calls: dict[str, Call]) -> dict[str, int]:
    """The request that each ioctl is made with (_IOC of <asm-generic/ioctl.h>, type 0xAE)."""
    out = {}
    for name, (direction, number, structure) in calls.items():
        size = ffi.sizeof(f"struct {structure}") if structure else 0
        out[name] = ("W" in direction) << 30 | ("R" in direction) << 31 | size << 16 | 0xAE << 8 | number
    return out
