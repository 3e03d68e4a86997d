"""The Windows Hypervisor Platform as C: what winhvplatform.h and winhvplatformdefs.h declare, as far as it is used.

The tests compare every structure, constant and parameter list here with the headers of mingw-w64. cffi knows no bit-fields
of a given layout and no alignment: flags are whole words here, with the masks beside them, and buffers of registers and
exits are aligned by :func:`aligned`. ``long`` has 32 bits on Windows, so that all types have their width in the name.
"""

from __future__ import annotations

import enum
from functools import cache
from typing import Any, Final

import cffi

__all__ = [
    "ALIGNMENT",
    "CDEF",
    "CapabilityCode",
    "ExitReason",
    "Feature",
    "InterruptType",
    "Map",
    "PropertyCode",
    "Register",
    "Status",
    "TranslateResult",
    "aligned",
    "ffi",
]

ALIGNMENT: Final = 16
"""Bytes that register values and exit contexts must be aligned to (DECLSPEC_ALIGN(16) of WHV_UINT128)."""

STRUCTURES: Final = """
typedef struct { uint64_t Low64, High64; } WHV_UINT128;
typedef struct {
    uint64_t Base;
    uint32_t Limit;
    uint16_t Selector;
    uint16_t Attributes;
} WHV_X64_SEGMENT_REGISTER;
typedef struct { uint16_t Pad[3]; uint16_t Limit; uint64_t Base; } WHV_X64_TABLE_REGISTER;
typedef union {
    WHV_UINT128 Reg128;
    uint64_t Reg64;
    uint32_t Reg32;
    uint16_t Reg16;
    uint8_t Reg8;
    WHV_X64_SEGMENT_REGISTER Segment;
    WHV_X64_TABLE_REGISTER Table;
} WHV_REGISTER_VALUE;

typedef struct {
    uint16_t ExecutionState;
    uint8_t LengthAndCr8;
    uint8_t Reserved;
    uint32_t Reserved2;
    WHV_X64_SEGMENT_REGISTER Cs;
    uint64_t Rip, Rflags;
} WHV_VP_EXIT_CONTEXT;
typedef struct {
    uint8_t InstructionByteCount, Reserved[3], InstructionBytes[16];
    uint32_t AccessInfo;
    uint64_t Gpa, Gva;
} WHV_MEMORY_ACCESS_CONTEXT;
typedef struct {
    uint8_t InstructionByteCount, Reserved[3], InstructionBytes[16];
    uint32_t AccessInfo;
    uint16_t PortNumber, Reserved2[3];
    uint64_t Rax, Rcx, Rsi, Rdi;
    WHV_X64_SEGMENT_REGISTER Ds, Es;
} WHV_X64_IO_PORT_ACCESS_CONTEXT;
typedef struct {
    uint32_t AccessInfo, MsrNumber;
    uint64_t Rax, Rdx;
} WHV_X64_MSR_ACCESS_CONTEXT;
typedef struct {
    uint64_t Rax, Rcx, Rdx, Rbx;
    uint64_t DefaultResultRax, DefaultResultRcx, DefaultResultRdx, DefaultResultRbx;
} WHV_X64_CPUID_ACCESS_CONTEXT;
typedef struct {
    uint8_t InstructionByteCount, Reserved[3], InstructionBytes[16];
    uint32_t ExceptionInfo;
    uint8_t ExceptionType, Reserved2[3];
    uint32_t ErrorCode;
    uint64_t ExceptionParameter;
} WHV_VP_EXCEPTION_CONTEXT;
typedef struct { uint32_t FeatureCode, Reserved; uint64_t FeatureParameter; } WHV_X64_UNSUPPORTED_FEATURE_CONTEXT;
typedef struct { uint32_t DeliverableType; } WHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT;
typedef struct { uint32_t CancelReason; } WHV_RUN_VP_CANCELED_CONTEXT;
typedef struct { uint32_t InterruptVector; } WHV_X64_APIC_EOI_CONTEXT;
typedef struct { uint64_t TscAux, VirtualOffset, Tsc, ReferenceTime, RdtscInfo; } WHV_X64_RDTSC_CONTEXT;
typedef struct {
    uint64_t Rax, Rbx, Rcx, Rdx, R8, Rsi, Rdi, Reserved0;
    WHV_UINT128 XmmRegisters[6];
    uint64_t Reserved1[2];
} WHV_HYPERCALL_CONTEXT;
typedef struct {
    uint32_t ExitReason, Reserved;
    WHV_VP_EXIT_CONTEXT VpContext;
    union {
        WHV_MEMORY_ACCESS_CONTEXT MemoryAccess;
        WHV_X64_IO_PORT_ACCESS_CONTEXT IoPortAccess;
        WHV_X64_MSR_ACCESS_CONTEXT MsrAccess;
        WHV_X64_CPUID_ACCESS_CONTEXT CpuidAccess;
        WHV_VP_EXCEPTION_CONTEXT VpException;
        WHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT InterruptWindow;
        WHV_X64_UNSUPPORTED_FEATURE_CONTEXT UnsupportedFeature;
        WHV_RUN_VP_CANCELED_CONTEXT CancelReason;
        WHV_X64_APIC_EOI_CONTEXT ApicEoi;
        WHV_X64_RDTSC_CONTEXT ReadTsc;
        WHV_HYPERCALL_CONTEXT Hypercall;
    };
} WHV_RUN_VP_EXIT_CONTEXT;

typedef struct { uint32_t ResultCode, Reserved; } WHV_TRANSLATE_GVA_RESULT;
typedef struct {
    uint64_t Control;
    uint32_t Destination, Vector;
} WHV_INTERRUPT_CONTROL;
typedef struct {
    uint64_t GuestAddress, Value;
    uint32_t Length, Flags;
} WHV_DOORBELL_MATCH_DATA;
typedef struct { uint32_t Function, Reserved[3], Eax, Ebx, Ecx, Edx; } WHV_X64_CPUID_RESULT;
typedef struct { uint64_t Mapped4KPageCount, Mapped2MPageCount, Mapped1GPageCount; } WHV_PARTITION_MEMORY_COUNTERS;
"""

FUNCTIONS: Final = """
int32_t WHvGetCapability(uint32_t code, void *buffer, uint32_t bytes, uint32_t *written);
int32_t WHvCreatePartition(void **partition);
int32_t WHvSetupPartition(void *partition);
int32_t WHvDeletePartition(void *partition);
int32_t WHvGetPartitionProperty(void *partition, uint32_t code, void *buffer, uint32_t bytes, uint32_t *written);
int32_t WHvSetPartitionProperty(void *partition, uint32_t code, const void *buffer, uint32_t bytes);
int32_t WHvSuspendPartitionTime(void *partition);
int32_t WHvResumePartitionTime(void *partition);
int32_t WHvMapGpaRange(void *partition, void *source, uint64_t gpa, uint64_t bytes, uint32_t flags);
int32_t WHvUnmapGpaRange(void *partition, uint64_t gpa, uint64_t bytes);
int32_t WHvQueryGpaRangeDirtyBitmap(void *partition, uint64_t gpa, uint64_t range, uint64_t *bitmap, uint32_t bytes);
int32_t WHvTranslateGva(void *partition, uint32_t vp, uint64_t gva, uint32_t flags,
                        WHV_TRANSLATE_GVA_RESULT *result, uint64_t *gpa);
int32_t WHvCreateVirtualProcessor(void *partition, uint32_t vp, uint32_t flags);
int32_t WHvDeleteVirtualProcessor(void *partition, uint32_t vp);
int32_t WHvRunVirtualProcessor(void *partition, uint32_t vp, void *context, uint32_t bytes);
int32_t WHvCancelRunVirtualProcessor(void *partition, uint32_t vp, uint32_t flags);
int32_t WHvGetVirtualProcessorRegisters(void *partition, uint32_t vp, const uint32_t *names, uint32_t count,
                                        WHV_REGISTER_VALUE *values);
int32_t WHvSetVirtualProcessorRegisters(void *partition, uint32_t vp, const uint32_t *names, uint32_t count,
                                        const WHV_REGISTER_VALUE *values);
int32_t WHvRequestInterrupt(void *partition, const WHV_INTERRUPT_CONTROL *interrupt, uint32_t bytes);
int32_t WHvGetVirtualProcessorInterruptControllerState2(void *partition, uint32_t vp, void *state, uint32_t bytes,
                                                        uint32_t *written);
int32_t WHvSetVirtualProcessorInterruptControllerState2(void *partition, uint32_t vp, const void *state,
                                                        uint32_t bytes);
int32_t WHvGetVirtualProcessorXsaveState(void *partition, uint32_t vp, void *buffer, uint32_t bytes, uint32_t *written);
int32_t WHvSetVirtualProcessorXsaveState(void *partition, uint32_t vp, const void *buffer, uint32_t bytes);
int32_t WHvGetPartitionCounters(void *partition, uint32_t set, void *buffer, uint32_t bytes, uint32_t *written);
int32_t WHvRegisterPartitionDoorbellEvent(void *partition, const WHV_DOORBELL_MATCH_DATA *match, void *event);
int32_t WHvUnregisterPartitionDoorbellEvent(void *partition, const WHV_DOORBELL_MATCH_DATA *match);
"""

CDEF: Final = STRUCTURES + FUNCTIONS


class Status(enum.IntEnum):
    """HRESULTs of the platform, as unsigned numbers (winerror.h, facility 0x37)."""

    NOT_FOUND = 0x8007_0490
    ACCESS_DENIED = 0x8007_0005
    INVALID_ARGUMENT = 0x8007_0057
    UNKNOWN_CAPABILITY = 0x8037_0300
    INSUFFICIENT_BUFFER = 0x8037_0301
    UNKNOWN_PROPERTY = 0x8037_0302
    UNSUPPORTED_HYPERVISOR_CONFIG = 0x8037_0303
    INVALID_PARTITION_CONFIG = 0x8037_0304
    GPA_RANGE_NOT_FOUND = 0x8037_0305
    VP_ALREADY_EXISTS = 0x8037_0306
    VP_DOES_NOT_EXIST = 0x8037_0307
    INVALID_VP_STATE = 0x8037_0308
    INVALID_VP_REGISTER_NAME = 0x8037_0309
    UNSUPPORTED_PROCESSOR_CONFIG = 0x8037_0310


class CapabilityCode(enum.IntEnum):
    """WHV_CAPABILITY_CODE."""

    HypervisorPresent = 0
    Features = 1
    ExtendedVmExits = 2
    ExceptionExitBitmap = 3
    X64MsrExitBitmap = 4
    ProcessorVendor = 0x1000
    ProcessorFeatures = 0x1001
    ProcessorXsaveFeatures = 0x1003
    ProcessorClockFrequency = 0x1004
    InterruptClockFrequency = 0x1005


class Feature(enum.IntFlag):
    """WHV_CAPABILITY_FEATURES."""

    PartialUnmap = 1 << 0
    LocalApicEmulation = 1 << 1
    Xsave = 1 << 2
    DirtyPageTracking = 1 << 3


class ExtendedExit(enum.IntFlag):
    """WHV_EXTENDED_VM_EXITS."""

    X64CpuidExit = 1 << 0
    X64MsrExit = 1 << 1
    ExceptionExit = 1 << 2
    X64RdtscExit = 1 << 3
    X64ApicSmiExitTrap = 1 << 4
    HypercallExit = 1 << 5


class PropertyCode(enum.IntEnum):
    """WHV_PARTITION_PROPERTY_CODE."""

    ExtendedVmExits = 1
    ExceptionExitBitmap = 2
    NestedVirtualization = 4
    X64MsrExitBitmap = 5
    ProcessorFeatures = 0x1001
    CpuidExitList = 0x1003
    CpuidResultList = 0x1004
    LocalApicEmulationMode = 0x1005
    ProcessorXsaveFeatures = 0x1006
    ProcessorCount = 0x1FFF


class Map(enum.IntFlag):
    """WHV_MAP_GPA_RANGE_FLAGS."""

    Read = 1
    Write = 2
    Execute = 4
    TrackDirtyPages = 8


class TranslateResult(enum.IntEnum):
    """WHV_TRANSLATE_GVA_RESULT_CODE."""

    Success = 0
    PageNotPresent = 1
    PrivilegeViolation = 2
    InvalidPageTableFlags = 3
    GpaUnmapped = 4
    GpaNoReadAccess = 5
    GpaNoWriteAccess = 6
    GpaIllegalOverlayAccess = 7
    Intercept = 8


class ExitReason(enum.IntEnum):
    """WHV_RUN_VP_EXIT_REASON."""

    NoReason = 0  # "None" in the header
    MemoryAccess = 1
    X64IoPortAccess = 2
    UnrecoverableException = 4
    InvalidVpRegisterValue = 5
    UnsupportedFeature = 6
    X64InterruptWindow = 7
    X64Halt = 8
    X64ApicEoi = 9
    X64MsrAccess = 0x1000
    X64Cpuid = 0x1001
    Exception = 0x1002
    X64Rdtsc = 0x1003
    X64ApicSmiTrap = 0x1004
    Hypercall = 0x1005
    X64ApicInitSipiTrap = 0x1006
    Canceled = 0x2001


class InterruptType(enum.IntEnum):
    """WHV_INTERRUPT_TYPE."""

    Fixed = 0
    LowestPriority = 1
    Nmi = 4
    Init = 5
    Sipi = 6
    LocalInt1 = 9


class Register(enum.IntEnum):
    """WHV_REGISTER_NAME; a name without "X64" there has it not here either."""

    Rax = 0
    Rcx = 1
    Rdx = 2
    Rbx = 3
    Rsp = 4
    Rbp = 5
    Rsi = 6
    Rdi = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R12 = 12
    R13 = 13
    R14 = 14
    R15 = 15
    Rip = 0x10
    Rflags = 0x11
    Es = 0x12
    Cs = 0x13
    Ss = 0x14
    Ds = 0x15
    Fs = 0x16
    Gs = 0x17
    Ldtr = 0x18
    Tr = 0x19
    Idtr = 0x1A
    Gdtr = 0x1B
    Cr0 = 0x1C
    Cr2 = 0x1D
    Cr3 = 0x1E
    Cr4 = 0x1F
    Cr8 = 0x20
    Dr0 = 0x21
    Dr1 = 0x22
    Dr2 = 0x23
    Dr3 = 0x24
    Dr6 = 0x25
    Dr7 = 0x26
    XCr0 = 0x27
    Xmm0 = 0x1000
    Xmm1 = 0x1001
    Xmm2 = 0x1002
    Xmm3 = 0x1003
    Xmm4 = 0x1004
    Xmm5 = 0x1005
    Xmm6 = 0x1006
    Xmm7 = 0x1007
    Xmm8 = 0x1008
    Xmm9 = 0x1009
    Xmm10 = 0x100A
    Xmm11 = 0x100B
    Xmm12 = 0x100C
    Xmm13 = 0x100D
    Xmm14 = 0x100E
    Xmm15 = 0x100F
    FpMmx0 = 0x1010
    FpMmx1 = 0x1011
    FpMmx2 = 0x1012
    FpMmx3 = 0x1013
    FpMmx4 = 0x1014
    FpMmx5 = 0x1015
    FpMmx6 = 0x1016
    FpMmx7 = 0x1017
    FpControlStatus = 0x1018
    XmmControlStatus = 0x1019
    Tsc = 0x2000
    Efer = 0x2001
    KernelGsBase = 0x2002
    ApicBase = 0x2003
    Pat = 0x2004
    SysenterCs = 0x2005
    SysenterEip = 0x2006
    SysenterEsp = 0x2007
    Star = 0x2008
    Lstar = 0x2009
    Cstar = 0x200A
    Sfmask = 0x200B
    MsrMtrrDefType = 0x200E
    TscAux = 0x207B
    PendingInterruption = 0x8000_0000
    InterruptState = 0x8000_0001
    PendingEvent = 0x8000_0002
    DeliverabilityNotifications = 0x8000_0004
    InternalActivityState = 0x8000_0005


# WHV_VP_EXIT_CONTEXT.LengthAndCr8, .ExecutionState
LENGTH_MASK: Final = 0xF
STATE_CPL: Final = 0x3
STATE_PE: Final = 1 << 2
STATE_LMA: Final = 1 << 4
# WHV_MEMORY_ACCESS_INFO
ACCESS_TYPE: Final = 0x3
ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE = 0, 1, 2
ACCESS_GPA_UNMAPPED: Final = 1 << 2
ACCESS_GVA_VALID: Final = 1 << 3
# WHV_X64_IO_PORT_ACCESS_INFO
IO_IS_WRITE: Final = 1 << 0
IO_SIZE_SHIFT: Final = 1
IO_SIZE_MASK: Final = 7
IO_STRING: Final = 1 << 4
IO_REP: Final = 1 << 5
# WHV_X64_MSR_ACCESS_INFO
MSR_IS_WRITE: Final = 1 << 0
# WHV_X64_SEGMENT_REGISTER.Attributes
SEGMENT_LONG: Final = 1 << 13
SEGMENT_DEFAULT: Final = 1 << 14
# WHV_X64_PENDING_INTERRUPTION_REGISTER, its low half; the error code is the high one
PENDING: Final = 1 << 0
PENDING_TYPE_SHIFT: Final = 1
PENDING_INTERRUPT, PENDING_NMI, PENDING_EXCEPTION = 0, 2, 3
PENDING_HAS_ERROR: Final = 1 << 4
PENDING_VECTOR_SHIFT: Final = 16
# WHV_X64_DELIVERABILITY_NOTIFICATIONS_REGISTER
NOTIFY_NMI: Final = 1 << 0
NOTIFY_INTERRUPT: Final = 1 << 1
# WHV_X64_INTERRUPT_STATE_REGISTER
INTERRUPT_SHADOW: Final = 1 << 0
NMI_MASKED: Final = 1 << 1
# WHV_DOORBELL_MATCH_DATA.Flags
DOORBELL_MATCH_VALUE: Final = 1 << 0
DOORBELL_MATCH_LENGTH: Final = 1 << 1


@cache
def ffi() -> Any:
    """The cffi interface with these declarations."""
    interface = cffi.FFI()
    interface.cdef(CDEF)
    return interface


def aligned(kind: str, count: int = 1) -> tuple[Any, Any]:
    """Zeroed room for ``count`` values of a C type at an address that fits the platform, and what keeps it alive."""
    interface = ffi()
    store = interface.new("uint8_t[]", interface.sizeof(kind) * count + ALIGNMENT)
    # SAFETY: the skip is below ALIGNMENT, which `store` is larger by; the caller keeps `store` as long as the pointer.
    skip = -int(interface.cast("uintptr_t", store)) % ALIGNMENT
    return interface.cast(f"{kind} *", store + skip), store
