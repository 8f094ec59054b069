/* A KVM guest that stores and loads bytes at given addresses. It is a writer that reaches memory through a KVM
 * memory slot and not through this process's page tables. Needs _GNU_SOURCE.
 *
 *     vcpu v;
 *     if (have("a KVM guest", vcpu_open(&v))) {
 *         vcpu_slot(&v, 0, 0, memory, size, KVM_MEM_LOG_DIRTY_PAGES);
 *         vcpu_store(&v, guest_address, 0x5a);           the vCPU runs, and is stopped again
 *         byte = vcpu_load(&v, guest_address);
 *         vcpu_close(&v);
 *     }
 *
 * The guest's code is in a page of its own at VCPU_CODE, in the slot VCPU_CODE_SLOT. The caller may fill all
 * addresses below with slots. */
#ifndef VCPU_H
#define VCPU_H

#include <fcntl.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "check.h"

#if defined(__x86_64__)
#include <linux/kvm.h>

enum { VCPU_CODE_SLOT = 31 };
#define VCPU_CODE 0xf0000000u

typedef struct {
    int kvm, machine, cpu;
    struct kvm_run *run;
    size_t run_size;
    void *code;
    size_t code_size;
    unsigned long runs; /* how often the vCPU ran */
} vcpu;

/* 32-bit code without paging. Stores the byte in al at edi, then adds edx to edi, ecx times. Then loads one byte
 * from esi, and the vCPU halts. */
static const unsigned char vcpu_code[] = {
    0x85, 0xc9,       /*       test ecx, ecx  */
    0x74, 0x07,       /*       jz   load      */
    0x88, 0x07,       /* next: mov  [edi], al */
    0x01, 0xd7,       /*       add  edi, edx  */
    0x49,             /*       dec  ecx       */
    0x75, 0xf9,       /*       jnz  next      */
    0x0f, 0xb6, 0x1e, /* load: movzx ebx, byte [esi] */
    0xf4,             /*       hlt            */
};

/* Puts `length` bytes at `memory` into the guest at `address`; length 0 removes the slot. `flags` may be
 * KVM_MEM_LOG_DIRTY_PAGES. */
static inline void vcpu_slot(vcpu *v, unsigned number, uint64_t address, void *memory, uint64_t length,
                             unsigned flags)
{
    struct kvm_userspace_memory_region slot = {.slot = number,
                                               .flags = flags,
                                               .guest_phys_addr = address,
                                               .memory_size = length,
                                               .userspace_addr = (uintptr_t)memory};
    if (ioctl(v->machine, KVM_SET_USER_MEMORY_REGION, &slot))
        FAIL("KVM_SET_USER_MEMORY_REGION(slot %u): %s", number, strerror(errno));
}

/* Makes a machine with one vCPU and with no memory except its code. Returns NULL, or why this is impossible here. */
static inline const char *vcpu_open(vcpu *v)
{
    memset(v, 0, sizeof *v);
    v->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (v->kvm < 0) return errno == ENOENT ? "there is no /dev/kvm" : "/dev/kvm cannot be opened";
    /* This call fails if the thread has a signal or other work pending, as may be after an io_uring was closed. */
    do v->machine = ioctl(v->kvm, KVM_CREATE_VM, 0);
    while (v->machine < 0 && errno == EINTR);
    if (v->machine < 0) {
        static char why[128];
        snprintf(why, sizeof why, "KVM cannot make a machine: %s", strerror(errno));
        close(v->kvm);
        return why;
    }
    /* Old Intel processors need these two to emulate a guest without paging. Other processors do not know them. */
    uint64_t identity_map = 0xfffbc000u;
    (void)ioctl(v->machine, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
    (void)ioctl(v->machine, KVM_SET_TSS_ADDR, 0xfffbd000ul);
    v->code_size = (size_t)sysconf(_SC_PAGESIZE);
    v->code = mmap(NULL, v->code_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(v->code != MAP_FAILED);
    memcpy(v->code, vcpu_code, sizeof vcpu_code);
    vcpu_slot(v, VCPU_CODE_SLOT, VCPU_CODE, v->code, v->code_size, 0);

    v->cpu = ioctl(v->machine, KVM_CREATE_VCPU, 0);
    CHECK(v->cpu >= 0);
    v->run_size = (size_t)ioctl(v->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    v->run = mmap(NULL, v->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->cpu, 0);
    CHECK(v->run != MAP_FAILED);

    struct kvm_segment flat = {.limit = UINT32_MAX, .selector = 0x10, .type = 3, .present = 1,
                               .db = 1, .s = 1, .g = 1};
    struct kvm_sregs s;
    CHECK(ioctl(v->cpu, KVM_GET_SREGS, &s) == 0);
    s.ds = s.es = s.fs = s.gs = s.ss = s.cs = flat;
    s.cs.selector = 0x08, s.cs.type = 11;
    s.cr0 |= 1; /* protected mode */
    CHECK(ioctl(v->cpu, KVM_SET_SREGS, &s) == 0);
    return NULL;
}

/* Runs the vCPU from the beginning of its code to its halt. Returns what it loaded. */
static inline unsigned char vcpu_run(vcpu *v, struct kvm_regs r)
{
    r.rip = VCPU_CODE, r.rflags = 2;
    CHECK(ioctl(v->cpu, KVM_SET_REGS, &r) == 0);
    while (ioctl(v->cpu, KVM_RUN, 0))
        if (errno != EINTR) FAIL("KVM_RUN: %s", strerror(errno));
    if (v->run->exit_reason != KVM_EXIT_HLT)
        FAIL("the guest left KVM with exit reason %u instead of a halt", v->run->exit_reason);
    CHECK(ioctl(v->cpu, KVM_GET_REGS, &r) == 0);
    v->runs++;
    return (unsigned char)r.rbx;
}

/* The guest stores `byte` at `address`, `address + step` and so on, `count` times. */
static inline void vcpu_fill(vcpu *v, uint32_t address, uint32_t step, uint32_t count, unsigned char byte)
{
    vcpu_run(v, (struct kvm_regs){
                    .rdi = address, .rdx = step, .rcx = count, .rax = byte, .rsi = VCPU_CODE});
}

static inline void vcpu_store(vcpu *v, uint32_t address, unsigned char byte)
{
    vcpu_fill(v, address, 0, 1, byte);
}

/* The byte that the guest reads at `address`. */
static inline unsigned char vcpu_load(vcpu *v, uint32_t address)
{
    return vcpu_run(v, (struct kvm_regs){.rsi = address});
}

/* KVM_GET_DIRTY_LOG of a slot with KVM_MEM_LOG_DIRTY_PAGES: a bit for each page that the guest wrote since
 * the last call, in whole 64-bit words. */
static inline void vcpu_dirty_log(vcpu *v, unsigned number, uint64_t *bitmap)
{
    struct kvm_dirty_log log = {.slot = number, .dirty_bitmap = bitmap};
    if (ioctl(v->machine, KVM_GET_DIRTY_LOG, &log)) FAIL("KVM_GET_DIRTY_LOG: %s", strerror(errno));
}

static inline void vcpu_close(vcpu *v)
{
    munmap(v->run, v->run_size);
    close(v->cpu), close(v->machine), close(v->kvm);
    munmap(v->code, v->code_size);
}

#else

/* There is no guest code for this processor. */
typedef struct {
    unsigned long runs;
} vcpu;

#define KVM_MEM_LOG_DIRTY_PAGES 1

static inline const char *vcpu_open(vcpu *v)
{
    v->runs = 0;
    return "the guest's code is for x86-64";
}

static inline void vcpu_slot(vcpu *v, unsigned number, uint64_t address, void *memory, uint64_t length,
                             unsigned flags)
{
    (void)v, (void)number, (void)address, (void)memory, (void)length, (void)flags;
}

static inline void vcpu_fill(vcpu *v, uint32_t address, uint32_t step, uint32_t count, unsigned char byte)
{
    (void)v, (void)address, (void)step, (void)count, (void)byte;
}

static inline void vcpu_store(vcpu *v, uint32_t address, unsigned char byte)
{
    (void)v, (void)address, (void)byte;
}

static inline unsigned char vcpu_load(vcpu *v, uint32_t address)
{
    (void)v, (void)address;
    return 0;
}

static inline void vcpu_dirty_log(vcpu *v, unsigned number, uint64_t *bitmap)
{
    (void)v, (void)number, (void)bitmap;
}

static inline void vcpu_close(vcpu *v)
{
    (void)v;
}

#endif
#endif
