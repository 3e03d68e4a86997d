/* A simulator of the Windows Hypervisor Platform for tests: its entry points over the real /dev/kvm.
 *
 * Real guest code runs behind the same C interface. What differs from KVM is modelled: a virtual processor stands on the
 * instruction that touched a device, with nothing of it done; registers and exits must be aligned to 16 bytes; memory and
 * processors come after WHvSetupPartition; a cancellation is remembered. To know the state before an instruction, the guest
 * is stepped through one at a time, so this is slow, and right.
 *
 * FAKE_WHPX_HALT=on leaves the instruction pointer on HLT instead of behind it (both have been seen of Windows);
 * FAKE_WHPX_FAIL=FUNCTION[:N] makes the Nth call of a function fail; FAKE_WHPX_ABSENT=1 says that no hypervisor runs.
 *
 * The declarations are written down again here, independently of the Python ones.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int32_t HRESULT;
#define S_OK 0
#define E_INVALIDARG ((HRESULT)0x80070057)
#define E_FAIL ((HRESULT)0x80004005)
#define E_NOT_FOUND ((HRESULT)0x80370305)
#define E_CONFIG ((HRESULT)0x80370304)
#define E_BUFFER ((HRESULT)0x80370301)
#define E_PROPERTY ((HRESULT)0x80370302)
#define E_CAPABILITY ((HRESULT)0x80370300)
#define E_VP_EXISTS ((HRESULT)0x80370306)
#define E_VP_MISSING ((HRESULT)0x80370307)
#define E_VP_STATE ((HRESULT)0x80370308)
#define E_REGISTER ((HRESULT)0x80370309)

typedef struct { uint64_t Base; uint32_t Limit; uint16_t Selector, Attributes; } Segment;
typedef struct { uint16_t Pad[3], Limit; uint64_t Base; } Table;
typedef union { struct { uint64_t Low, High; }; Segment Seg; Table Tab; uint8_t Bytes[16]; uint16_t Words[8]; uint32_t Dwords[4]; } Value;
typedef struct {
    uint32_t Reason, Reserved;
    struct { uint16_t State; uint8_t Length, Pad; uint32_t Reserved; Segment Cs; uint64_t Rip, Rflags; } Vp;
    union {
        struct { uint8_t Count, Pad[3], Bytes[16]; uint32_t Info; uint64_t Gpa, Gva; } Memory;
        struct {
            uint8_t Count, Pad[3], Bytes[16];
            uint32_t Info;
            uint16_t Port, Reserved[3];
            uint64_t Rax, Rcx, Rsi, Rdi;
            Segment Ds, Es;
        } Io;
        struct { uint32_t Info, Number; uint64_t Rax, Rdx; } Msr;
        struct { uint8_t Count, Pad[3], Bytes[16]; uint32_t Info; uint8_t Type, Pad2[3]; uint32_t Error; uint64_t Parameter; } Exception;
        struct { uint32_t Code, Reserved; uint64_t Parameter; } Unsupported;
        uint8_t Room[176];
    };
} Context;
_Static_assert(sizeof(Value) == 16 && sizeof(Context) == 224, "winhvplatformdefs.h");
_Static_assert(offsetof(Context, Memory) == 48 && offsetof(Context, Io.Rax) == 48 + 32, "winhvplatformdefs.h");

enum { REASON_MEMORY = 1, REASON_PORT = 2, REASON_UNRECOVERABLE = 4, REASON_INVALID = 5, REASON_UNSUPPORTED = 6,
       REASON_WINDOW = 7, REASON_HALT = 8, REASON_MSR = 0x1000, REASON_EXCEPTION = 0x1002, REASON_CANCELED = 0x2001 };
enum { MAX_SLOTS = 64, MAX_VPS = 64, TF = 1 << 8, IF = 1 << 9, RF = 1 << 16 };

typedef struct { uint64_t gpa, size; uint32_t flags; int used; void *host; } Slot;
typedef struct Partition Partition;
typedef struct {
    Partition *partition;
    int fd, step_flag, window;
    struct kvm_run *run;
    atomic_int cancel, running;
    pthread_t thread;
    uint64_t dr[8], pending, shadow_tf;
} Vp;
struct Partition {
    int fd, ready;
    uint32_t processors;
    uint64_t exits, exceptions, msrs;
    Slot slots[MAX_SLOTS];
    Vp *vps[MAX_VPS];
};

static int kvm = -1, run_bytes;

static int refused(const char *name)
{
    static _Atomic int seen;
    const char *wanted = getenv("FAKE_WHPX_FAIL"), *colon;
    size_t length;
    if (!wanted)
        return 0;
    colon = strchr(wanted, ':');
    length = colon ? (size_t)(colon - wanted) : strlen(wanted);
    if (strlen(name) != length || strncmp(name, wanted, length))
        return 0;
    return !colon || ++seen == atoi(colon + 1);
}
#define MAY_FAIL() do { if (refused(__func__)) return E_FAIL; } while (0)

static void nothing(int number) { (void)number; }

static int opened(void)
{
    if (kvm < 0) {
        struct sigaction action = { .sa_handler = nothing };
        sigaction(SIGRTMIN + 5, &action, NULL);
        kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
        if (kvm >= 0)
            run_bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    }
    return kvm >= 0;
}

static Vp *find(Partition *partition, uint32_t index)
{
    return index < MAX_VPS ? partition->vps[index] : NULL;
}

HRESULT WHvGetCapability(uint32_t code, void *buffer, uint32_t bytes, uint32_t *written)
{
    uint64_t value;
    uint32_t size = 8;
    MAY_FAIL();
    switch (code) {
    case 0: value = opened() && !getenv("FAKE_WHPX_ABSENT"); size = 4; break;
    case 1: value = 1 | 4 | 8; break; /* PartialUnmap, Xsave, DirtyPageTracking */
    case 2: value = 2 | 4; break;     /* MSR and exception exits */
    case 0x1001: value = 0x3f; break;
    case 0x1003: value = 1; break;
    default: return E_CAPABILITY;
    }
    if (bytes < size)
        return E_BUFFER;
    memcpy(buffer, &value, size);
    if (written)
        *written = size;
    return S_OK;
}

HRESULT WHvCreatePartition(void **handle)
{
    Partition *made;
    MAY_FAIL();
    if (!opened() || !(made = calloc(1, sizeof *made)))
        return E_FAIL;
    made->fd = ioctl(kvm, KVM_CREATE_VM, 0);
    if (made->fd < 0) {
        free(made);
        return E_FAIL;
    }
    ioctl(made->fd, KVM_SET_TSS_ADDR, 0xfffbd000ul);
    *handle = made;
    return S_OK;
}

HRESULT WHvSetPartitionProperty(void *handle, uint32_t code, const void *buffer, uint32_t bytes)
{
    Partition *partition = handle;
    uint64_t value = 0;
    MAY_FAIL();
    if (bytes != 4 && bytes != 8)
        return E_INVALIDARG;
    memcpy(&value, buffer, bytes);
    if (partition->ready && code != 2)
        return E_CONFIG;
    switch (code) {
    case 1: partition->exits = value; return value & ~6ull ? E_INVALIDARG : S_OK;
    case 2: partition->exceptions = value; return partition->exits & 4 ? S_OK : E_CONFIG;
    case 5: partition->msrs = value; return S_OK;
    case 0x1001: case 0x1006: return S_OK;
    case 0x1fff: partition->processors = value; return value && value <= MAX_VPS ? S_OK : E_INVALIDARG;
    default: return E_PROPERTY;
    }
}

HRESULT WHvSetupPartition(void *handle)
{
    Partition *partition = handle;
    MAY_FAIL();
    if (!partition->processors || partition->ready)
        return E_CONFIG;
    if (partition->exits & 2) {
        struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR,
            .args = { KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL } };
        if (ioctl(partition->fd, KVM_ENABLE_CAP, &cap))
            return E_CONFIG;
    }
    partition->ready = 1;
    return S_OK;
}

HRESULT WHvDeleteVirtualProcessor(void *handle, uint32_t index)
{
    Partition *partition = handle;
    Vp *vp = find(partition, index);
    if (!vp)
        return E_VP_MISSING;
    munmap(vp->run, run_bytes);
    close(vp->fd);
    free(vp);
    partition->vps[index] = NULL;
    return S_OK;
}

HRESULT WHvDeletePartition(void *handle)
{
    Partition *partition = handle;
    for (int i = 0; i < MAX_VPS; i++)
        if (partition->vps[i])
            WHvDeleteVirtualProcessor(partition, i);
    close(partition->fd);
    free(partition);
    return S_OK;
}

static int give(Partition *partition, int slot, int remove)
{
    Slot *s = &partition->slots[slot];
    struct kvm_userspace_memory_region region = { .slot = slot, .guest_phys_addr = s->gpa,
        .memory_size = remove ? 0 : s->size, .userspace_addr = (uint64_t)s->host };
    if (!(s->flags & 2))
        region.flags |= KVM_MEM_READONLY;
    if (s->flags & 8)
        region.flags |= KVM_MEM_LOG_DIRTY_PAGES;
    return ioctl(partition->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

HRESULT WHvMapGpaRange(void *handle, void *source, uint64_t gpa, uint64_t bytes, uint32_t flags)
{
    Partition *partition = handle;
    MAY_FAIL();
    if (!partition->ready)
        return E_CONFIG;
    if (((uint64_t)source | gpa | bytes) & 0xfff || !bytes || !(flags & 1))
        return E_INVALIDARG;
    for (int i = 0; i < MAX_SLOTS; i++)
        if (!partition->slots[i].used) {
            partition->slots[i] = (Slot){ gpa, bytes, flags, 1, source };
            if (!give(partition, i, 0))
                return S_OK;
            partition->slots[i].used = 0;
            return E_INVALIDARG;
        }
    return E_FAIL;
}

static int slot_of(Partition *partition, uint64_t gpa, uint64_t bytes)
{
    for (int i = 0; i < MAX_SLOTS; i++)
        if (partition->slots[i].used && partition->slots[i].gpa == gpa && partition->slots[i].size == bytes)
            return i;
    return -1;
}

HRESULT WHvUnmapGpaRange(void *handle, uint64_t gpa, uint64_t bytes)
{
    Partition *partition = handle;
    int slot = slot_of(partition, gpa, bytes);
    MAY_FAIL();
    if (slot < 0)
        return E_NOT_FOUND;
    partition->slots[slot].used = 0;
    return give(partition, slot, 1) ? E_FAIL : S_OK;
}

HRESULT WHvQueryGpaRangeDirtyBitmap(void *handle, uint64_t gpa, uint64_t range, uint64_t *bitmap, uint32_t bytes)
{
    Partition *partition = handle;
    int slot = slot_of(partition, gpa, range);
    struct kvm_dirty_log log = { .slot = slot };
    MAY_FAIL();
    if (slot < 0 || !(partition->slots[slot].flags & 8))
        return E_NOT_FOUND;
    if (bytes < (range / 4096 + 63) / 64 * 8)
        return E_BUFFER;
    log.dirty_bitmap = bitmap;
    return ioctl(partition->fd, KVM_GET_DIRTY_LOG, &log) ? E_FAIL : S_OK;
}

HRESULT WHvTranslateGva(void *handle, uint32_t index, uint64_t gva, uint32_t flags, uint32_t *result, uint64_t *gpa)
{
    Vp *vp = find(handle, index);
    struct kvm_translation t = { .linear_address = gva };
    (void)flags;
    MAY_FAIL();
    if (!vp)
        return E_VP_MISSING;
    if (ioctl(vp->fd, KVM_TRANSLATE, &t))
        return E_FAIL;
    result[0] = t.valid ? 0 : 1;
    *gpa = t.physical_address;
    return S_OK;
}

HRESULT WHvCreateVirtualProcessor(void *handle, uint32_t index, uint32_t flags)
{
    Partition *partition = handle;
    Vp *vp;
    char room[sizeof(struct kvm_cpuid2) + 256 * sizeof(struct kvm_cpuid_entry2)];
    struct kvm_cpuid2 *cpuid = (void *)room;
    struct kvm_debugregs debug;
    MAY_FAIL();
    if (!partition->ready || flags)
        return E_CONFIG;
    if (index >= partition->processors)
        return E_INVALIDARG;
    if (partition->vps[index])
        return E_VP_EXISTS;
    vp = calloc(1, sizeof *vp);
    vp->partition = partition;
    vp->fd = ioctl(partition->fd, KVM_CREATE_VCPU, index);
    if (vp->fd < 0) {
        free(vp);
        return E_FAIL;
    }
    vp->run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vp->fd, 0);
    memset(room, 0, sizeof room);
    cpuid->nent = 256;
    if (!ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid))
        ioctl(vp->fd, KVM_SET_CPUID2, cpuid);
    ioctl(vp->fd, KVM_GET_DEBUGREGS, &debug);
    memcpy(vp->dr, debug.db, sizeof debug.db);
    vp->dr[6] = debug.dr6;
    vp->dr[7] = debug.dr7;
    partition->vps[index] = vp;
    return S_OK;
}

HRESULT WHvCancelRunVirtualProcessor(void *handle, uint32_t index, uint32_t flags)
{
    Vp *vp = find(handle, index);
    if (!vp || flags)
        return vp ? E_INVALIDARG : E_VP_MISSING;
    atomic_store(&vp->cancel, 1); /* looked at before every step */
    vp->run->immediate_exit = 1;
    if (atomic_load(&vp->running))
        pthread_kill(vp->thread, SIGRTMIN + 5);
    return S_OK;
}

/* -- registers -- */

typedef struct { struct kvm_regs regs; struct kvm_sregs sregs; struct kvm_xsave fpu; int have, changed; } State;
enum { REGS = 1, SREGS = 2, FPU = 4 };

static Segment segment(const struct kvm_segment *s)
{
    Segment out = { s->base, s->limit, s->selector, 0 };
    out.Attributes = s->type | s->s << 4 | s->dpl << 5 | (s->present && !s->unusable) << 7 | s->avl << 12 | s->l << 13
        | s->db << 14 | s->g << 15;
    return out;
}

static void segment_set(struct kvm_segment *s, Segment in)
{
    s->base = in.Base;
    s->limit = in.Limit;
    s->selector = in.Selector;
    s->type = in.Attributes & 15;
    s->s = in.Attributes >> 4 & 1;
    s->dpl = in.Attributes >> 5 & 3;
    s->present = in.Attributes >> 7 & 1;
    s->unusable = !s->present;
    s->avl = in.Attributes >> 12 & 1;
    s->l = in.Attributes >> 13 & 1;
    s->db = in.Attributes >> 14 & 1;
    s->g = in.Attributes >> 15 & 1;
}

static int need(Vp *vp, State *state, int what)
{
    if ((what & REGS) && !(state->have & REGS) && ioctl(vp->fd, KVM_GET_REGS, &state->regs))
        return -1;
    if ((what & SREGS) && !(state->have & SREGS) && ioctl(vp->fd, KVM_GET_SREGS, &state->sregs))
        return -1;
    if ((what & FPU) && !(state->have & FPU) && ioctl(vp->fd, KVM_GET_XSAVE, &state->fpu))
        return -1;
    state->have |= what;
    return 0;
}

static uint64_t *general(struct kvm_regs *r, uint32_t name)
{
    uint64_t *order[] = { (void *)&r->rax, (void *)&r->rcx, (void *)&r->rdx, (void *)&r->rbx, (void *)&r->rsp,
        (void *)&r->rbp, (void *)&r->rsi, (void *)&r->rdi, (void *)&r->r8, (void *)&r->r9, (void *)&r->r10,
        (void *)&r->r11, (void *)&r->r12, (void *)&r->r13, (void *)&r->r14, (void *)&r->r15, (void *)&r->rip,
        (void *)&r->rflags };
    return order[name];
}

static const struct { uint32_t name, msr; } MSRS[] = { { 0x2000, 0x10 }, { 0x2002, 0xc0000102 }, { 0x2004, 0x277 },
    { 0x2005, 0x174 }, { 0x2006, 0x176 }, { 0x2007, 0x175 }, { 0x2008, 0xc0000081 }, { 0x2009, 0xc0000082 },
    { 0x200a, 0xc0000083 }, { 0x200b, 0xc0000084 }, { 0x200e, 0x2ff }, { 0x207b, 0xc0000103 } };

static int msr(Vp *vp, uint32_t name, uint64_t *value, int set)
{
    struct { struct kvm_msrs head; struct kvm_msr_entry entry; } one = { { .nmsrs = 1 }, { 0 } };
    for (size_t i = 0; i < sizeof MSRS / sizeof *MSRS; i++)
        if (MSRS[i].name == name) {
            one.entry.index = MSRS[i].msr;
            one.entry.data = *value;
            if (ioctl(vp->fd, set ? KVM_SET_MSRS : KVM_GET_MSRS, &one) != 1)
                return -1;
            *value = one.entry.data;
            return 0;
        }
    return -1;
}

static HRESULT access_register(Vp *vp, State *state, uint32_t name, Value *value, int set)
{
    struct kvm_segment *segments[] = { &state->sregs.es, &state->sregs.cs, &state->sregs.ss, &state->sregs.ds,
        &state->sregs.fs, &state->sregs.gs, &state->sregs.ldt, &state->sregs.tr };
    uint64_t word = value->Low;
    if (!set)
        memset(value, 0, sizeof *value);
    if (name <= 0x11) {
        need(vp, state, REGS);
        if (set) {
            if (name == 0x11) {
                vp->shadow_tf = word & TF;
                word &= ~(uint64_t)TF;
            }
            *general(&state->regs, name) = word;
            state->changed |= REGS;
        } else
            value->Low = *general(&state->regs, name) | (name == 0x11 ? vp->shadow_tf : 0);
        return S_OK;
    }
    if (name >= 0x12 && name <= 0x20) {
        need(vp, state, SREGS);
        if (name <= 0x19) {
            if (set)
                segment_set(segments[name - 0x12], value->Seg);
            else
                value->Seg = segment(segments[name - 0x12]);
        } else if (name <= 0x1b) {
            struct kvm_dtable *table = name == 0x1a ? &state->sregs.idt : &state->sregs.gdt;
            if (set) {
                table->base = value->Tab.Base;
                table->limit = value->Tab.Limit;
            } else {
                value->Tab.Base = table->base;
                value->Tab.Limit = table->limit;
            }
        } else {
            uint64_t *control[] = { (void *)&state->sregs.cr0, (void *)&state->sregs.cr2, (void *)&state->sregs.cr3,
                (void *)&state->sregs.cr4, (void *)&state->sregs.cr8 };
            if (set)
                *control[name - 0x1c] = word;
            else
                value->Low = *control[name - 0x1c];
        }
        if (set)
            state->changed |= SREGS;
        return S_OK;
    }
    if (name == 0x2001 || name == 0x2003) {
        need(vp, state, SREGS);
        uint64_t *at = name == 0x2001 ? (void *)&state->sregs.efer : (void *)&state->sregs.apic_base;
        if (set) {
            *at = word;
            state->changed |= SREGS;
        } else
            value->Low = *at;
        return S_OK;
    }
    if (name >= 0x21 && name <= 0x26) {
        int index = name <= 0x24 ? (int)name - 0x21 : (int)name - 0x1f;
        if (set) {
            struct kvm_debugregs debug = { .flags = 0 };
            vp->dr[index] = word;
            memcpy(debug.db, vp->dr, sizeof debug.db);
            debug.dr6 = vp->dr[6];
            /* Where the exits are asked for, the comparisons are made here. */
            debug.dr7 = vp->partition->exceptions & 2 ? 0x400 : vp->dr[7];
            return ioctl(vp->fd, KVM_SET_DEBUGREGS, &debug) ? E_INVALIDARG : S_OK;
        }
        value->Low = vp->dr[index];
        return S_OK;
    }
    if (name == 0x27) {
        struct kvm_xcrs xcrs = { .nr_xcrs = 1 };
        if (set)
            xcrs.xcrs[0].value = word;
        if (ioctl(vp->fd, set ? KVM_SET_XCRS : KVM_GET_XCRS, &xcrs))
            return E_INVALIDARG;
        if (!set)
            value->Low = xcrs.xcrs[0].value;
        return S_OK;
    }
    if (name >= 0x1000 && name <= 0x1019) {
        /* The legacy area of XSAVE (SDM volume 1, 10.5.1): KVM_GET_FPU has no MXCSR. */
        uint8_t *area = (uint8_t *)state->fpu.region, *at = area;
        uint64_t present;
        need(vp, state, FPU);
        if (name <= 0x1017) {
            at += name <= 0x100f ? 160 + 16 * (name - 0x1000) : 32 + 16 * (name - 0x1010);
            if (set)
                memcpy(at, value, name <= 0x100f ? 16 : 10);
            else
                memcpy(value, at, name <= 0x100f ? 16 : 10);
        } else if (set)
            memcpy(at + (name == 0x1018 ? 0 : 16), value, name == 0x1018 ? 16 : 12);
        else
            memcpy(value, at + (name == 0x1018 ? 0 : 16), 16);
        memcpy(&present, area + 512, 8);
        present |= 3;
        memcpy(area + 512, &present, 8);
        if (set)
            state->changed |= FPU;
        return S_OK;
    }
    if (name >= 0x2000 && name < 0x3000)
        return msr(vp, name, &value->Low, set) ? E_REGISTER : S_OK;
    switch (name) {
    case 0x80000000: /* PendingInterruption */
        if (set)
            vp->pending = word;
        else
            value->Low = vp->pending;
        return S_OK;
    case 0x80000001: { /* InterruptState */
        struct kvm_vcpu_events events;
        ioctl(vp->fd, KVM_GET_VCPU_EVENTS, &events);
        if (!set) {
            value->Low = (events.interrupt.shadow ? 1 : 0) | events.nmi.masked << 1;
            return S_OK;
        }
        events.interrupt.shadow = word & 1;
        events.nmi.masked = word >> 1 & 1;
        events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
        return ioctl(vp->fd, KVM_SET_VCPU_EVENTS, &events) ? E_INVALIDARG : S_OK;
    }
    case 0x80000004:
        if (set)
            vp->window = word >> 1 & 1;
        else
            value->Low = vp->window << 1;
        return S_OK;
    case 0x80000005:
        return S_OK; /* never suspended here */
    default:
        return E_REGISTER;
    }
}

HRESULT WHvGetVirtualProcessorRegisters(void *handle, uint32_t index, const uint32_t *names, uint32_t count, Value *values)
{
    Vp *vp = find(handle, index);
    State state = { .have = 0 };
    MAY_FAIL();
    if (!vp)
        return E_VP_MISSING;
    if ((uintptr_t)values & 15 || !count)
        return E_INVALIDARG;
    for (uint32_t i = 0; i < count; i++) {
        HRESULT bad = access_register(vp, &state, names[i], &values[i], 0);
        if (bad)
            return bad;
    }
    return S_OK;
}

static int commit(Vp *vp, State *state)
{
    int bad = 0;
    if (state->changed & SREGS)
        bad |= ioctl(vp->fd, KVM_SET_SREGS, &state->sregs);
    if (state->changed & REGS)
        bad |= ioctl(vp->fd, KVM_SET_REGS, &state->regs);
    if (state->changed & FPU)
        bad |= ioctl(vp->fd, KVM_SET_XSAVE, &state->fpu);
    return bad;
}

HRESULT WHvSetVirtualProcessorRegisters(void *handle, uint32_t index, const uint32_t *names, uint32_t count,
                                        const Value *values)
{
    Vp *vp = find(handle, index);
    State state = { .have = 0 };
    MAY_FAIL();
    if (!vp)
        return E_VP_MISSING;
    if ((uintptr_t)values & 15 || !count)
        return E_INVALIDARG;
    if (atomic_load(&vp->running))
        return E_VP_STATE;
    for (uint32_t i = 0; i < count; i++) {
        Value value = values[i];
        HRESULT bad = access_register(vp, &state, names[i], &value, 1);
        if (bad)
            return bad;
    }
    return commit(vp, &state) ? E_INVALIDARG : S_OK;
}

HRESULT WHvGetVirtualProcessorXsaveState(void *handle, uint32_t index, void *buffer, uint32_t bytes, uint32_t *written)
{
    Vp *vp = find(handle, index);
    MAY_FAIL();
    if (!vp)
        return E_VP_MISSING;
    *written = sizeof(struct kvm_xsave);
    if (bytes < sizeof(struct kvm_xsave))
        return E_BUFFER;
    return ioctl(vp->fd, KVM_GET_XSAVE, buffer) ? E_FAIL : S_OK;
}

HRESULT WHvSetVirtualProcessorXsaveState(void *handle, uint32_t index, const void *buffer, uint32_t bytes)
{
    Vp *vp = find(handle, index);
    MAY_FAIL();
    if (!vp || bytes != sizeof(struct kvm_xsave))
        return vp ? E_INVALIDARG : E_VP_MISSING;
    return ioctl(vp->fd, KVM_SET_XSAVE, buffer) ? E_INVALIDARG : S_OK;
}

/* -- running -- */

/* Finish what KVM has begun of an instruction, and put back the state from before it. */
static void undo(Vp *vp, const struct kvm_regs *before)
{
    struct kvm_xsave fpu;
    ioctl(vp->fd, KVM_GET_XSAVE, &fpu);
    memset(vp->run->mmio.data, 0, vp->run->exit_reason == KVM_EXIT_MMIO ? 8 : 0);
    if (vp->run->exit_reason == KVM_EXIT_X86_RDMSR || vp->run->exit_reason == KVM_EXIT_X86_WRMSR)
        vp->run->msr.error = 0;
    vp->run->immediate_exit = 1;
    for (int i = 0; i < 8192; i++)
        if (ioctl(vp->fd, KVM_RUN, 0) < 0 || vp->run->exit_reason == KVM_EXIT_DEBUG)
            break;
    vp->run->immediate_exit = 0;
    ioctl(vp->fd, KVM_SET_REGS, before);
    ioctl(vp->fd, KVM_SET_XSAVE, &fpu);
}

/* The guest's bytes at a linear address; 0 if there are none. */
static int fetch(Vp *vp, uint64_t linear, uint8_t *out, int count)
{
    int got = 0;
    while (got < count) {
        struct kvm_translation t = { .linear_address = linear + got };
        int found = 0;
        if (ioctl(vp->fd, KVM_TRANSLATE, &t) || !t.valid)
            break;
        for (int i = 0; i < MAX_SLOTS && !found; i++) {
            Slot *s = &vp->partition->slots[i];
            if (s->used && t.physical_address >= s->gpa && t.physical_address < s->gpa + s->size) {
                out[got++] = ((uint8_t *)s->host)[t.physical_address - s->gpa];
                found = 1;
            }
        }
        if (!found)
            break;
    }
    return got;
}

/* The length of a store whose operands are in memory, or of an OUT, if `code` is one; else 0. `size` is the bytes it writes. */
static int store_length(const uint8_t *code, int count, int is64, int size)
{
    int at = 0, narrow = 0, rex = 0, opcode, length, modrm, base;
    for (; at < count; at++) {
        if (code[at] == 0x66)
            narrow = 1;
        else if (is64 && code[at] >> 4 == 4)
            rex = code[at];
        else if (code[at] != 0xf2 && code[at] != 0xf3 && code[at] != 0x64 && code[at] != 0x65 && code[at] != 0x67)
            break;
    }
    if (at >= count)
        return 0;
    opcode = code[at++];
    int operand = rex & 8 ? 8 : narrow ? 2 : 4, width = opcode & 1 ? operand : 1, immediate = 0;
    if (opcode == 0xee || opcode == 0xef || opcode == 0x6e || opcode == 0x6f || opcode == 0xaa || opcode == 0xab
        || opcode == 0xa4 || opcode == 0xa5)
        return at;
    if (opcode == 0xe6 || opcode == 0xe7)
        return at + 1;
    if (opcode == 0xc6 || opcode == 0xc7)
        immediate = width == 8 ? 4 : width;
    else if (opcode != 0x88 && opcode != 0x89)
        return 0;
    if (width != size || at >= count || (modrm = code[at++]) >= 0xc0)
        return 0;
    base = modrm & 7;
    if (base == 4)
        base = code[at++] & 7;
    length = at + (modrm >> 6 == 2 || (modrm < 0x40 && base == 5) ? 4 : modrm >> 6) + immediate;
    return length <= count ? length : 0;
}

/* Code in ring 3 is not stepped through (KVM's paravirtual flavour would show the guest the steps): of what KVM has finished
 * already, a write to a device or port, find where it began. */
static void rewind_ring3(Vp *vp, struct kvm_regs *before, const struct kvm_sregs *sregs)
{
    uint8_t code[15];
    int size = vp->run->exit_reason == KVM_EXIT_MMIO ? (int)vp->run->mmio.len : 0;
    ioctl(vp->fd, KVM_GET_REGS, before);
    if (vp->run->exit_reason == KVM_EXIT_MMIO ? !vp->run->mmio.is_write : vp->run->exit_reason != KVM_EXIT_IO
            || vp->run->io.direction == KVM_EXIT_IO_IN)
        return;
    for (int length = 1; length <= 15; length++) {
        int count = fetch(vp, before->rip - length, code, length);
        if (count == length && store_length(code, count, sregs->cs.l, size) == length) {
            before->rip -= length;
            return;
        }
    }
}

static HRESULT report(Context *context, uint32_t reason, const struct kvm_regs *regs, const struct kvm_sregs *sregs,
                      uint64_t tf, int length)
{
    context->Reason = reason;
    context->Vp.State = (sregs->ss.dpl & 3) | (sregs->cr0 & 1) << 2 | !!(sregs->efer & 0x400) << 4;
    context->Vp.Length = length & 15;
    context->Vp.Cs = segment(&sregs->cs);
    context->Vp.Rip = regs->rip;
    context->Vp.Rflags = regs->rflags | tf;
    return S_OK;
}

static HRESULT stopped(Vp *vp, Context *context, const struct kvm_regs *before, const struct kvm_sregs *sregs)
{
    struct kvm_run *run = vp->run;
    uint32_t reason = run->exit_reason, info;
    struct kvm_regs after;
    uint64_t linear = sregs->cs.base * !(sregs->efer & 0x400 && sregs->cs.l) + before->rip;
    switch (reason) {
    case KVM_EXIT_IO: {
        uint8_t size = run->io.size, out = run->io.direction == KVM_EXIT_IO_OUT;
        uint16_t port = run->io.port;
        int count, string = 0, rep = 0;
        count = fetch(vp, linear, context->Io.Bytes, 15);
        for (int i = 0; i < count; i++) {
            uint8_t byte = context->Io.Bytes[i];
            rep |= byte == 0xf3 || byte == 0xf2;
            if (byte == 0xf2 || byte == 0xf3 || byte == 0x66 || byte == 0x67 || byte == 0x2e || byte == 0x36
                || byte == 0x3e || byte == 0x26 || byte == 0x64 || byte == 0x65 || (sregs->cs.l && byte >> 4 == 4))
                continue;
            string = byte >= 0x6c && byte <= 0x6f;
            break;
        }
        undo(vp, before);
        /* Where the instruction ends: strings have prefixes and one byte, the others an immediate or not. */
        int length = 0;
        for (; length < count; length++)
            if ((context->Io.Bytes[length] >= 0x6c && context->Io.Bytes[length] <= 0x6f)
                || (context->Io.Bytes[length] >= 0xe4 && context->Io.Bytes[length] <= 0xef
                    && context->Io.Bytes[length] != 0xe8)) {
                length += context->Io.Bytes[length] >= 0xe4 && context->Io.Bytes[length] <= 0xe7 ? 2 : 1;
                break;
            }
        report(context, REASON_PORT, before, sregs, vp->shadow_tf, length);
        context->Io.Count = count;
        context->Io.Info = out | size << 1 | string << 4 | (rep && string) << 5;
        context->Io.Port = port;
        context->Io.Rax = before->rax;
        context->Io.Rcx = before->rcx;
        context->Io.Rsi = before->rsi;
        context->Io.Rdi = before->rdi;
        context->Io.Ds = segment(&sregs->ds);
        context->Io.Es = segment(&sregs->es);
        return S_OK;
    }
    case KVM_EXIT_MMIO: {
        uint64_t gpa = run->mmio.phys_addr;
        int write = run->mmio.is_write, unmapped = 1;
        for (int i = 0; i < MAX_SLOTS; i++) {
            Slot *s = &vp->partition->slots[i];
            unmapped &= !(s->used && gpa >= s->gpa && gpa < s->gpa + s->size);
        }
        undo(vp, before);
        report(context, REASON_MEMORY, before, sregs, vp->shadow_tf, 0);
        context->Memory.Count = fetch(vp, linear, context->Memory.Bytes, 15);
        context->Memory.Info = write | unmapped << 2;
        context->Memory.Gpa = gpa;
        return S_OK;
    }
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        info = run->msr.index;
        undo(vp, before);
        report(context, REASON_MSR, before, sregs, vp->shadow_tf, 2);
        context->Msr.Info = reason == KVM_EXIT_X86_WRMSR;
        context->Msr.Number = info;
        context->Msr.Rax = before->rax;
        context->Msr.Rdx = before->rdx;
        return S_OK;
    case KVM_EXIT_HLT:
        ioctl(vp->fd, KVM_GET_REGS, &after);
        after.rip -= getenv("FAKE_WHPX_HALT") && !strcmp(getenv("FAKE_WHPX_HALT"), "on");
        return report(context, REASON_HALT, &after, sregs, vp->shadow_tf, 1);
    case KVM_EXIT_SHUTDOWN:
        return report(context, REASON_UNRECOVERABLE, before, sregs, vp->shadow_tf, 0);
    case KVM_EXIT_FAIL_ENTRY:
        return report(context, REASON_INVALID, before, sregs, vp->shadow_tf, 0);
    case KVM_EXIT_INTERNAL_ERROR: {
        struct kvm_translation t = { .linear_address = linear };
        uint8_t byte;
        ioctl(vp->fd, KVM_SET_REGS, before);
        if (!fetch(vp, linear, &byte, 1) && !ioctl(vp->fd, KVM_TRANSLATE, &t) && t.valid) {
            report(context, REASON_MEMORY, before, sregs, vp->shadow_tf, 0);
            context->Memory.Info = 2 | 1 << 2;
            context->Memory.Gpa = t.physical_address;
            return S_OK;
        }
        report(context, REASON_UNSUPPORTED, before, sregs, vp->shadow_tf, 0);
        context->Unsupported.Code = 1;
        return S_OK;
    }
    default:
        ioctl(vp->fd, KVM_GET_REGS, &after);
        report(context, 0x7fff0000u | reason, &after, sregs, vp->shadow_tf, 0);
        return S_OK;
    }
}

/* The 8 bytes that each debug register watches: KVM's emulator of kernel code (kvm_pvm) compares no data addresses. */
static void watched(Vp *vp, uint64_t out[4])
{
    for (int i = 0; i < 4; i++) {
        out[i] = 0;
        if ((vp->dr[7] >> 2 * i & 3) && (vp->dr[7] >> (16 + 4 * i) & 3))
            fetch(vp, vp->dr[i], (uint8_t *)&out[i], (int[]){ 1, 2, 8, 4 }[vp->dr[7] >> (18 + 4 * i) & 3]);
    }
}

static HRESULT exception(Vp *vp, Context *context, const struct kvm_regs *regs, const struct kvm_sregs *sregs, int type,
                         uint64_t parameter)
{
    report(context, REASON_EXCEPTION, regs, sregs, vp->shadow_tf, 0);
    context->Exception.Type = type;
    context->Exception.Parameter = parameter;
    if (type == 1)
        vp->dr[6] = (vp->dr[6] & ~0x400full) | parameter;
    return S_OK;
}

static void inject(Vp *vp)
{
    uint64_t pending = vp->pending;
    if (!(pending & 1))
        return;
    vp->pending = 0;
    if ((pending >> 1 & 7) == 0) {
        struct kvm_interrupt interrupt = { .irq = pending >> 16 & 0xff };
        ioctl(vp->fd, KVM_INTERRUPT, &interrupt);
    } else {
        struct kvm_vcpu_events events;
        ioctl(vp->fd, KVM_GET_VCPU_EVENTS, &events);
        events.exception.injected = 1;
        events.exception.nr = pending >> 16 & 0xff;
        events.exception.has_error_code = pending >> 4 & 1;
        events.exception.error_code = pending >> 32;
        ioctl(vp->fd, KVM_SET_VCPU_EVENTS, &events);
    }
}

HRESULT WHvRunVirtualProcessor(void *handle, uint32_t index, void *buffer, uint32_t bytes)
{
    Partition *partition = handle;
    Vp *vp = find(partition, index);
    Context *context = buffer;
    HRESULT result = S_OK;
    int resumed = 1;
    MAY_FAIL();
    if (!vp)
        return E_VP_MISSING;
    if ((uintptr_t)buffer & 15 || bytes < sizeof *context)
        return E_INVALIDARG;
    if (atomic_exchange(&vp->running, 1))
        return E_VP_STATE;
    vp->thread = pthread_self();
    memset(context, 0, sizeof *context);
    for (;;) {
        struct kvm_regs before, after;
        struct kvm_sregs sregs;
        struct kvm_guest_debug debug = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };
        uint8_t byte;
        uint64_t linear;
        int hardware = 0;
        ioctl(vp->fd, KVM_GET_REGS, &before);
        ioctl(vp->fd, KVM_GET_SREGS, &sregs);
        linear = sregs.cs.base * !(sregs.efer & 0x400 && sregs.cs.l) + before.rip;
        /* Before the look: who cancels sets it behind the flag, and may come to that when the flag has been seen already. */
        vp->run->immediate_exit = 0;
        if (atomic_exchange(&vp->cancel, 0)) {
            report(context, REASON_CANCELED, &before, &sregs, vp->shadow_tf, 0);
            break;
        }
        if (vp->window && before.rflags & IF) {
            struct kvm_vcpu_events events;
            ioctl(vp->fd, KVM_GET_VCPU_EVENTS, &events);
            if (!events.interrupt.shadow && !(vp->pending & 1)) {
                vp->window = 0;
                report(context, REASON_WINDOW, &before, &sregs, vp->shadow_tf, 0);
                break;
            }
        }
        if (partition->exceptions & 1 << 1) {
            for (int i = 0; i < 4; i++) {
                if (!(vp->dr[7] >> 2 * i & 3))
                    continue;
                if ((vp->dr[7] >> (16 + 4 * i) & 3) == 0) {
                    if (vp->dr[i] == linear && !(before.rflags & RF && resumed))
                        hardware = 1 << i;
                } else
                    debug.control |= KVM_GUESTDBG_USE_HW_BP;
            }
            if (hardware) {
                exception(vp, context, &before, &sregs, 1, hardware);
                break;
            }
            if (debug.control & KVM_GUESTDBG_USE_HW_BP) {
                memcpy(debug.arch.debugreg, vp->dr, sizeof debug.arch.debugreg);
                for (int i = 0; i < 4; i++) /* only those on data: the others are compared above */
                    if ((vp->dr[7] >> (16 + 4 * i) & 3) == 0)
                        debug.arch.debugreg[7] &= ~(3ull << 2 * i);
            }
        }
        if (before.rflags & RF) {
            before.rflags &= ~(uint64_t)RF;
            ioctl(vp->fd, KVM_SET_REGS, &before);
        }
        resumed = 0;
        int injecting = vp->pending & 1;
        inject(vp);
        if (!injecting && fetch(vp, linear, &byte, 1)) {
            if (byte == 0xf4 && !(sregs.ss.dpl & 3)) {
                const char *where = getenv("FAKE_WHPX_HALT");
                if (!where || strcmp(where, "on"))
                    before.rip++;
                ioctl(vp->fd, KVM_SET_REGS, &before);
                report(context, REASON_HALT, &before, &sregs, vp->shadow_tf, 1);
                break;
            }
            if (byte == 0xcc && partition->exceptions & 1 << 3) {
                exception(vp, context, &before, &sregs, 3, 0);
                break;
            }
        }
        uint64_t was[4], is[4];
        int ring3 = (sregs.ss.dpl & 3) == 3;
        if (ring3)
            debug.control = partition->exceptions ? debug.control & ~KVM_GUESTDBG_SINGLESTEP : 0;
        watched(vp, was);
        if (ioctl(vp->fd, KVM_SET_GUEST_DEBUG, &debug)) {
            result = E_FAIL;
            break;
        }
        if (ioctl(vp->fd, KVM_RUN, 0) < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            result = E_FAIL;
            break;
        }
        if (vp->run->exit_reason == KVM_EXIT_INTR)
            continue;
        if (vp->run->exit_reason != KVM_EXIT_DEBUG) {
            if (ring3) {
                ioctl(vp->fd, KVM_GET_SREGS, &sregs); /* it may be in a handler in ring 0 by now */
                rewind_ring3(vp, &before, &sregs);
            }
            result = stopped(vp, context, &before, &sregs);
            break;
        }
        if (injecting) { /* with the event, its handler's first instruction ran; a step hides that it was HLT */
            ioctl(vp->fd, KVM_GET_REGS, &after);
            ioctl(vp->fd, KVM_GET_SREGS, &sregs);
            linear = sregs.cs.base * !(sregs.efer & 0x400 && sregs.cs.l) + after.rip - 1;
            if (fetch(vp, linear, &byte, 1) && byte == 0xf4) {
                vp->run->exit_reason = KVM_EXIT_HLT;
                result = stopped(vp, context, &before, &sregs);
                break;
            }
        }
        if (partition->exceptions & 1 << 1) {
            uint64_t hits = vp->run->debug.arch.dr6 & 15;
            ioctl(vp->fd, KVM_GET_REGS, &after);
            ioctl(vp->fd, KVM_GET_SREGS, &sregs);
            watched(vp, is);
            for (int i = 0; i < 4; i++)
                hits |= (uint64_t)(was[i] != is[i]) << i;
            if (hits || vp->shadow_tf) {
                exception(vp, context, &after, &sregs, 1, hits | (vp->shadow_tf ? 1 << 14 : 0));
                break;
            }
        }
    }
    atomic_store(&vp->running, 0);
    return result;
}
