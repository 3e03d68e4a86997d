/* A simulator of Apple's Hypervisor framework (arm64) for tests: its entry points over an executor of AArch64 that the test gives.
 *
 * Exits, syndromes, the rules about threads, alignment and the one VM of a process are made here; what an instruction other than
 * a system instruction does is the executor's work (vm_core's, through a callback, see simulators.py). Guests run at EL1 or EL0
 * with their MMU off.
 *
 * FAKE_HVF_DENIED=1: the program is not signed for it. FAKE_HVF_FAIL=FUNCTION[:N] makes the Nth call of a function fail.
 *
 * The declarations are written down again here, independently of the Python ones.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int32_t hv_return_t;
enum { HV_ERROR = (int)0xfae94001, HV_BUSY, HV_BAD_ARGUMENT, HV_ILLEGAL_GUEST_STATE, HV_NO_RESOURCES, HV_NO_DEVICE, HV_DENIED };
typedef struct {
    uint32_t reason;
    struct { uint64_t syndrome, virtual_address, physical_address; } exception;
} hv_vcpu_exit_t;
typedef unsigned char simd_t __attribute__((vector_size(16)));

enum { PAGE = 0x4000, MAX_SLOTS = 4096, MAX_VCPUS = 64, MAX_SYS = 128 };
enum { CANCELED, EXCEPTION, VTIMER };
enum { R = 1, W = 2, X = 4 };
#define SYS(op0, op1, crn, crm, op2) ((op0) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))
enum {
    MDSCR = SYS(2, 0, 0, 2, 2), SPSR = SYS(3, 0, 4, 0, 0), ELR = SYS(3, 0, 4, 0, 1), SP_EL0 = SYS(3, 0, 4, 1, 0),
    ESR = SYS(3, 0, 5, 2, 0), FAR = SYS(3, 0, 6, 0, 0), VBAR = SYS(3, 0, 12, 0, 0), SP_EL1 = SYS(3, 4, 4, 1, 0),
    CNTV_CTL = SYS(3, 3, 14, 3, 1), CNTV_CVAL = SYS(3, 3, 14, 3, 2), CNTVCT = SYS(3, 3, 14, 0, 2),
};

/* What the executor sees and changes of a vCPU; the rest follows behind it. */
typedef struct Cpu {
    uint64_t x[31], sp, pc, cpsr;
    uint8_t v[32][16];
} Cpu;
typedef struct {
    Cpu cpu;
    int used, stepped;
    pthread_t thread;
    hv_vcpu_exit_t exit;
    uint64_t fpcr, fpsr, offset;
    bool pending[2], masked, trap_debug;
    atomic_int cancel;
    struct { uint16_t id; uint64_t value; } sys[MAX_SYS];
    int sys_count;
} Vcpu;
typedef struct { uint64_t ipa, size; uint8_t *host; uint64_t flags; } Slot;

/* Gives 0: retired, 1: stopped by hv_fake_memory, 2: no such instruction. */
typedef int (*executor_t)(uint64_t vcpu, Cpu *cpu);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int vm_exists;
static Slot slots[MAX_SLOTS];
static int slot_count;
static Vcpu vcpus[MAX_VCPUS];
static executor_t executor;
static uint8_t spi[1024];
static int gic;

static int refused(const char *name)
{
    static _Atomic int seen;
    const char *wanted = getenv("FAKE_HVF_FAIL"), *colon;
    size_t length;
    if (!wanted)
        return 0;
    colon = strchr(wanted, ':');
    length = colon ? (size_t)(colon - wanted) : strlen(wanted);
    if (strlen(name) != length || strncmp(name, wanted, length))
        return 0;
    return !colon || ++seen == atoi(colon + 1);
}
#define MAY_FAIL() do { if (refused(__func__)) return HV_ERROR; } while (0)

static Vcpu *mine(uint64_t id)
{
    if (id >= MAX_VCPUS || !vcpus[id].used || !pthread_equal(vcpus[id].thread, pthread_self()))
        return NULL;
    return &vcpus[id];
}
#define OWN() Vcpu *vcpu = mine(id); if (!vcpu) return HV_BAD_ARGUMENT

static uint64_t *sysreg(Vcpu *vcpu, uint16_t id)
{
    for (int i = 0; i < vcpu->sys_count; i++)
        if (vcpu->sys[i].id == id)
            return &vcpu->sys[i].value;
    if (vcpu->sys_count == MAX_SYS)
        abort();
    vcpu->sys[vcpu->sys_count].id = id;
    vcpu->sys[vcpu->sys_count].value = 0;
    return &vcpu->sys[vcpu->sys_count++].value;
}

void hv_fake_set_executor(executor_t given) { executor = given; }

hv_return_t hv_vm_create(void *config)
{
    (void)config;
    MAY_FAIL();
    if (getenv("FAKE_HVF_DENIED"))
        return HV_DENIED;
    if (vm_exists)
        return HV_BUSY;
    vm_exists = 1;
    return 0;
}

hv_return_t hv_vm_get_max_vcpu_count(uint32_t *count)
{
    MAY_FAIL();
    *count = MAX_VCPUS;
    return 0;
}

hv_return_t hv_vm_destroy(void)
{
    if (!vm_exists)
        return HV_NO_DEVICE;
    for (int i = 0; i < MAX_VCPUS; i++)
        if (vcpus[i].used)
            return HV_BUSY;
    vm_exists = slot_count = gic = 0;
    return 0;
}

void *hv_vm_config_create(void) { return malloc(16); }
void *hv_vcpu_config_create(void) { return malloc(16); }
void *hv_gic_config_create(void) { return calloc(1, 32); }
void *hv_gic_state_create(void) { return malloc(16); }
void os_release(void *object) { free(object); }
hv_return_t hv_vm_config_set_ipa_size(void *config, uint32_t bits)
{
    (void)config;
    return bits >= 32 && bits <= 40 ? 0 : HV_BAD_ARGUMENT;
}
hv_return_t hv_vcpu_config_get_feature_reg(void *config, uint32_t feature, uint64_t *value)
{
    (void)config;
    *value = 0x100 + feature;
    return feature < 16 ? 0 : HV_BAD_ARGUMENT;
}

hv_return_t hv_vm_map(void *address, uint64_t ipa, size_t size, uint64_t flags)
{
    MAY_FAIL();
    if (!vm_exists)
        return HV_NO_DEVICE;
    if (((uint64_t)address | ipa | size) % PAGE || !size || flags & ~7ull || slot_count == MAX_SLOTS)
        return HV_BAD_ARGUMENT;
    for (int i = 0; i < slot_count; i++)
        if (ipa < slots[i].ipa + slots[i].size && slots[i].ipa < ipa + size)
            return HV_ERROR;
    pthread_mutex_lock(&lock);
    slots[slot_count++] = (Slot){ ipa, size, address, flags };
    pthread_mutex_unlock(&lock);
    return 0;
}

/* Make `ipa` and `ipa + size` edges of slots. */
static void split(uint64_t at)
{
    for (int i = 0; i < slot_count; i++)
        if (at > slots[i].ipa && at < slots[i].ipa + slots[i].size) {
            slots[slot_count++] = (Slot){ at, slots[i].ipa + slots[i].size - at, slots[i].host + (at - slots[i].ipa), slots[i].flags };
            slots[i].size = at - slots[i].ipa;
            return;
        }
}

static hv_return_t change(uint64_t ipa, size_t size, int64_t flags)
{
    if ((ipa | size) % PAGE || !size || slot_count + 2 > MAX_SLOTS)
        return HV_BAD_ARGUMENT;
    pthread_mutex_lock(&lock);
    split(ipa);
    split(ipa + size);
    for (int i = 0; i < slot_count; i++)
        if (slots[i].ipa >= ipa && slots[i].ipa < ipa + size) {
            if (flags < 0)
                slots[i--] = slots[--slot_count];
            else
                slots[i].flags = flags;
        }
    pthread_mutex_unlock(&lock);
    return 0;
}

hv_return_t hv_vm_unmap(uint64_t ipa, size_t size) { MAY_FAIL(); return change(ipa, size, -1); }
hv_return_t hv_vm_protect(uint64_t ipa, size_t size, uint64_t flags) { MAY_FAIL(); return change(ipa, size, flags); }

static Slot *at(uint64_t ipa)
{
    for (int i = 0; i < slot_count; i++)
        if (ipa - slots[i].ipa < slots[i].size)
            return &slots[i];
    return NULL;
}

hv_return_t hv_vcpu_create(uint64_t *id, hv_vcpu_exit_t **exit, void *config)
{
    (void)config;
    MAY_FAIL();
    if (!vm_exists)
        return HV_NO_DEVICE;
    for (int i = 0; i < MAX_VCPUS; i++)
        if (!vcpus[i].used) {
            memset(&vcpus[i], 0, sizeof vcpus[i]);
            vcpus[i].used = 1;
            vcpus[i].thread = pthread_self();
            vcpus[i].cpu.cpsr = 0x3c5;
            *id = i;
            *exit = &vcpus[i].exit;
            return 0;
        }
    return HV_NO_RESOURCES;
}

hv_return_t hv_vcpu_destroy(uint64_t id)
{
    OWN();
    vcpu->used = 0;
    return 0;
}

hv_return_t hv_vcpus_exit(uint64_t *ids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (ids[i] >= MAX_VCPUS || !vcpus[ids[i]].used)
            return HV_BAD_ARGUMENT;
        atomic_store(&vcpus[ids[i]].cancel, 1); /* looked at before every instruction */
    }
    return 0;
}

hv_return_t hv_vcpu_get_reg(uint64_t id, uint32_t reg, uint64_t *value)
{
    OWN();
    MAY_FAIL();
    if (reg > 34)
        return HV_BAD_ARGUMENT;
    *value = reg < 31 ? vcpu->cpu.x[reg] : reg == 31 ? vcpu->cpu.pc : reg == 32 ? vcpu->fpcr : reg == 33 ? vcpu->fpsr : vcpu->cpu.cpsr;
    return 0;
}

hv_return_t hv_vcpu_set_reg(uint64_t id, uint32_t reg, uint64_t value)
{
    OWN();
    MAY_FAIL();
    if (reg > 34)
        return HV_BAD_ARGUMENT;
    *(reg < 31 ? &vcpu->cpu.x[reg] : reg == 31 ? &vcpu->cpu.pc : reg == 32 ? &vcpu->fpcr : reg == 33 ? &vcpu->fpsr : &vcpu->cpu.cpsr) = value;
    return 0;
}

hv_return_t hv_vcpu_get_sys_reg(uint64_t id, uint16_t reg, uint64_t *value)
{
    OWN();
    MAY_FAIL();
    *value = *sysreg(vcpu, reg);
    return 0;
}

hv_return_t hv_vcpu_set_sys_reg(uint64_t id, uint16_t reg, uint64_t value)
{
    OWN();
    MAY_FAIL();
    *sysreg(vcpu, reg) = value;
    return 0;
}

hv_return_t hv_vcpu_get_simd_fp_reg(uint64_t id, uint32_t reg, void *value)
{
    OWN();
    if (reg > 31)
        return HV_BAD_ARGUMENT;
    memcpy(value, vcpu->cpu.v[reg], 16);
    return 0;
}

hv_return_t hv_vcpu_set_simd_fp_reg(uint64_t id, uint32_t reg, simd_t value)
{
    OWN();
    MAY_FAIL();
    if (reg > 31)
        return HV_BAD_ARGUMENT;
    memcpy(vcpu->cpu.v[reg], &value, 16);
    return 0;
}

hv_return_t hv_vcpu_set_pending_interrupt(uint64_t id, uint32_t type, bool pending)
{
    OWN();
    if (type > 1)
        return HV_BAD_ARGUMENT;
    vcpu->pending[type] = pending;
    return 0;
}

hv_return_t hv_vcpu_get_vtimer_mask(uint64_t id, bool *masked) { OWN(); *masked = vcpu->masked; return 0; }
hv_return_t hv_vcpu_set_vtimer_mask(uint64_t id, bool masked) { OWN(); vcpu->masked = masked; return 0; }
hv_return_t hv_vcpu_get_vtimer_offset(uint64_t id, uint64_t *offset) { OWN(); *offset = vcpu->offset; return 0; }
hv_return_t hv_vcpu_set_vtimer_offset(uint64_t id, uint64_t offset) { OWN(); vcpu->offset = offset; return 0; }
hv_return_t hv_vcpu_set_trap_debug_exceptions(uint64_t id, bool trap) { OWN(); vcpu->trap_debug = trap; return 0; }

hv_return_t hv_gic_config_set_distributor_base(void *config, uint64_t base) { (void)config; return base % 0x10000 ? HV_BAD_ARGUMENT : 0; }
hv_return_t hv_gic_config_set_redistributor_base(void *config, uint64_t base) { (void)config; return base % 0x10000 ? HV_BAD_ARGUMENT : 0; }
hv_return_t hv_gic_create(void *config)
{
    MAY_FAIL();
    if (!config || !vm_exists)
        return HV_BAD_ARGUMENT;
    for (int i = 0; i < MAX_VCPUS; i++)
        if (vcpus[i].used)
            return HV_BUSY; /* before the first vCPU */
    memset(spi, 0, sizeof spi);
    gic = 1;
    return 0;
}
hv_return_t hv_gic_set_spi(uint32_t interrupt, bool level)
{
    if (!gic || interrupt < 32 || interrupt >= sizeof spi)
        return HV_BAD_ARGUMENT;
    spi[interrupt] = level;
    return 0;
}
hv_return_t hv_gic_state_get_size(void *state, size_t *size) { *size = sizeof spi; return state && gic ? 0 : HV_BAD_ARGUMENT; }
hv_return_t hv_gic_state_get_data(void *state, void *data) { memcpy(data, spi, sizeof spi); return state && gic ? 0 : HV_BAD_ARGUMENT; }
hv_return_t hv_gic_set_state(const void *data, size_t size)
{
    if (!gic || size != sizeof spi)
        return HV_BAD_ARGUMENT;
    memcpy(spi, data, size);
    return 0;
}

/* -- running -- */

static int stop(Vcpu *vcpu, uint32_t ec, uint32_t iss, uint64_t virtual, uint64_t physical)
{
    vcpu->exit.reason = EXCEPTION;
    vcpu->exit.exception.syndrome = (uint64_t)ec << 26 | 1u << 25 | iss;
    vcpu->exit.exception.virtual_address = virtual;
    vcpu->exit.exception.physical_address = physical;
    return 1;
}

/* The valid half of the ISS for a load or store of one general register without writeback (DDI 0487K, D24.2.40). */
static uint32_t syndrome_of(uint32_t insn)
{
    uint32_t size = insn >> 30, opc = insn >> 22 & 3, rt = insn & 31, sign, wide;
    int unsigned_offset = (insn & 0x3f000000) == 0x39000000, unscaled = (insn & 0x3f200c00) == 0x38000000,
        by_register = (insn & 0x3f200c00) == 0x38200800, ordered = (insn & 0x3fa07c00) == 0x08807c00;
    if (ordered)
        return 1u << 24 | size << 22 | rt << 16 | (size == 3) << 15 | 1 << 14;
    if (!unsigned_offset && !unscaled && !by_register)
        return 0;
    sign = opc >= 2;
    wide = sign ? opc == 2 : size == 3;
    return 1u << 24 | size << 22 | sign << 21 | rt << 16 | wide << 15;
}

/* A guest's access, called by the executor: 0 if it was done, 1 if the vCPU stops. */
int hv_fake_memory(uint64_t id, uint64_t address, uint32_t size, int is_write, uint64_t *value)
{
    Vcpu *vcpu = &vcpus[id];
    Slot *slot;
    uint32_t insn = 0;
    if (vcpu->trap_debug && *sysreg(vcpu, MDSCR) >> 15 & 1)
        for (int i = 0; i < 4; i++) {
            uint64_t control = *sysreg(vcpu, SYS(2, 0, 0, i, 7)), watched = *sysreg(vcpu, SYS(2, 0, 0, i, 6));
            uint64_t bytes = ((1ull << size) - 1) << (address & 7);
            if (control & 1 && (address & ~7ull) == watched && bytes & control >> 5 & 0xff && control >> 3 & (is_write ? 2 : 1))
                return stop(vcpu, 0x34, is_write << 6 | 0x22, address, address);
        }
    pthread_mutex_lock(&lock);
    slot = at(address);
    if (slot && slot->flags & (is_write ? W : R) && address + size <= slot->ipa + slot->size) {
        if (is_write)
            memcpy(slot->host + (address - slot->ipa), value, size);
        else
            memcpy(value, slot->host + (address - slot->ipa), size);
        pthread_mutex_unlock(&lock);
        return 0;
    }
    Slot *code = at(vcpu->cpu.pc);
    if (code)
        memcpy(&insn, code->host + (vcpu->cpu.pc - code->ipa), 4);
    pthread_mutex_unlock(&lock);
    return stop(vcpu, 0x24, syndrome_of(insn) | is_write << 6 | (slot ? 0x0f : 0x07), address, address);
}

static void take(Vcpu *vcpu, uint32_t offset, uint32_t syndrome, uint64_t link)
{
    int lower = !(vcpu->cpu.cpsr >> 2 & 3);
    *sysreg(vcpu, SPSR) = vcpu->cpu.cpsr;
    *sysreg(vcpu, ELR) = link;
    *sysreg(vcpu, ESR) = syndrome;
    vcpu->cpu.pc = *sysreg(vcpu, VBAR) + offset + (lower ? 0x400 : vcpu->cpu.cpsr & 1 ? 0x200 : 0);
    vcpu->cpu.cpsr = (vcpu->cpu.cpsr & ~0xfull) | 0x3c5;
}

static uint64_t ticks(Vcpu *vcpu)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 24000000 + now.tv_nsec * 24 / 1000 - vcpu->offset;
}

/* System instructions: 0 retired (the pc is moved), 1 stopped, 2 none of these. */
static int system_instruction(Vcpu *vcpu, uint32_t insn)
{
    Cpu *cpu = &vcpu->cpu;
    if ((insn & 0xffe0001f) == 0xd4000002) { /* HVC: the pc is behind it */
        cpu->pc += 4;
        return stop(vcpu, 0x16, insn >> 5 & 0xffff, 0, 0);
    }
    if ((insn & 0xffe0001f) == 0xd4000003) /* SMC: trapped, the pc is on it */
        return stop(vcpu, 0x17, insn >> 5 & 0xffff, 0, 0);
    if ((insn & 0xffe0001f) == 0xd4000001) { /* SVC */
        take(vcpu, 0, 0x15u << 26 | 1u << 25 | (insn >> 5 & 0xffff), cpu->pc + 4);
        return 0;
    }
    if ((insn & 0xffe0001f) == 0xd4200000) { /* BRK */
        if (vcpu->trap_debug)
            return stop(vcpu, 0x3c, insn >> 5 & 0xffff, 0, 0);
        take(vcpu, 0, 0x3cu << 26 | 1u << 25 | (insn >> 5 & 0xffff), cpu->pc);
        return 0;
    }
    if (insn == 0xd503207f || insn == 0xd503205f) /* WFI, WFE */
        return stop(vcpu, 0x01, 0x1f << 20 | (insn == 0xd503205f), 0, 0);
    if (insn == 0xd69f03e0) { /* ERET */
        cpu->pc = *sysreg(vcpu, ELR);
        cpu->cpsr = *sysreg(vcpu, SPSR);
        return 0;
    }
    if ((insn & 0xfffff0ff) == 0xd50340df || (insn & 0xfffff0ff) == 0xd50340ff) { /* MSR DAIFSet, DAIFClr */
        uint64_t bits = (uint64_t)(insn >> 8 & 15) << 6;
        cpu->cpsr = insn & 0x20 ? cpu->cpsr & ~bits : cpu->cpsr | bits;
        cpu->pc += 4;
        return 0;
    }
    if ((insn & 0xffd00000) == 0xd5100000) { /* MSR, MRS */
        uint16_t id = insn >> 5 & 0xffff;
        uint32_t rt = insn & 31, read = insn >> 21 & 1;
        static const uint16_t known[] = { SPSR, ELR, SP_EL0, ESR, FAR, VBAR, CNTV_CTL, CNTV_CVAL, CNTVCT,
            SYS(3, 0, 1, 0, 0), SYS(3, 0, 2, 0, 0), SYS(3, 0, 13, 0, 4), SYS(3, 3, 13, 0, 2), SYS(3, 0, 0, 0, 5) };
        if (id == SYS(3, 3, 4, 2, 0))
            return 2; /* NZCV: the executor's */
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (known[i] == id) {
                if (read && rt != 31)
                    cpu->x[rt] = id == CNTVCT ? ticks(vcpu) : *sysreg(vcpu, id);
                else if (!read)
                    *sysreg(vcpu, id) = rt == 31 ? 0 : cpu->x[rt];
                cpu->pc += 4;
                return 0;
            }
        return stop(vcpu, 0x18, (insn >> 19 & 3) << 20 | (insn >> 5 & 7) << 17 | (insn >> 16 & 7) << 14
                | (insn >> 12 & 15) << 10 | rt << 5 | (insn >> 8 & 15) << 1 | read, 0, 0);
    }
    return 2;
}

hv_return_t hv_vcpu_run(uint64_t id)
{
    OWN();
    MAY_FAIL();
    if (!executor)
        return HV_ERROR;
    Cpu *cpu = &vcpu->cpu;
    hv_return_t result = 0;
    memset(&vcpu->exit, 0, sizeof vcpu->exit);
    for (;;) {
        uint32_t insn;
        int stepping = vcpu->trap_debug && *sysreg(vcpu, MDSCR) & 1 && cpu->cpsr >> 21 & 1, done;
        if (atomic_exchange(&vcpu->cancel, 0)) {
            vcpu->exit.reason = CANCELED;
            break;
        }
        if (!vcpu->masked && (*sysreg(vcpu, CNTV_CTL) & 3) == 1 && ticks(vcpu) >= *sysreg(vcpu, CNTV_CVAL)) {
            vcpu->masked = true;
            vcpu->exit.reason = VTIMER;
            break;
        }
        int line = vcpu->pending[0];
        for (size_t i = 32; gic && id == 0 && i < sizeof spi; i++)
            line |= spi[i];
        if (line && !(cpu->cpsr >> 7 & 1)) {
            vcpu->pending[0] = false;
            take(vcpu, 0x80, 0, cpu->pc);
        }
        if (vcpu->trap_debug && *sysreg(vcpu, MDSCR) >> 15 & 1) {
            int hit = 0;
            for (int i = 0; i < 4; i++)
                hit |= *sysreg(vcpu, SYS(2, 0, 0, i, 5)) & 1 && *sysreg(vcpu, SYS(2, 0, 0, i, 4)) == cpu->pc;
            if (hit) {
                stop(vcpu, 0x30, 0x22, 0, 0);
                break;
            }
        }
        pthread_mutex_lock(&lock);
        Slot *slot = at(cpu->pc);
        if (slot && slot->flags & X && !(cpu->pc & 3))
            memcpy(&insn, slot->host + (cpu->pc - slot->ipa), 4);
        else
            slot = NULL;
        pthread_mutex_unlock(&lock);
        if (!slot) {
            stop(vcpu, 0x20, 0x07, cpu->pc, cpu->pc);
            break;
        }
        int el1 = cpu->cpsr & 1 && cpu->cpsr >> 2 & 3;
        done = system_instruction(vcpu, insn);
        if (done == 2) {
            cpu->sp = *sysreg(vcpu, el1 ? SP_EL1 : SP_EL0);
            done = executor(id, cpu);
            *sysreg(vcpu, el1 ? SP_EL1 : SP_EL0) = cpu->sp;
            if (done == 2) {
                take(vcpu, 0, 1u << 25, cpu->pc);
                done = 0;
            }
        }
        if (done < 0) {
            result = HV_ERROR;
            break;
        }
        if (done)
            break;
        if (stepping) {
            cpu->cpsr &= ~(1ull << 21);
            stop(vcpu, 0x32, 0x22, 0, 0);
            break;
        }
    }
    vcpu->pending[0] = vcpu->pending[1] = false; /* as the framework does */
    return result;
}
