/*
 * minivmm.c - a small hypervisor whose guest lives in a store. The hypervisor commits the running guest, is
 * killed, comes back in a new process, restores older commits, and compares every byte.
 *
 * The program starts a child process, the VMM, kills it, and starts a second VMM. A VMM opens the store and
 * runs the guest: a vCPU of /dev/kvm or, without /dev/kvm, a thread that executes the same machine code in
 * software. At each commit the VMM copies all memory into a file that the parent keeps: the witness. The
 * second VMM compares restored memory with the witness. Memory and registers are also compared with a
 * model: another guest, executed in software from its first instruction.
 * How a VMM uses the library: vmm_open, vmm_commit, vmm_persist, vmm_restore. How to run it: README.md.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <vmstore.h>

static const char *directory;   /* of the store */

static __attribute__((format(printf, 2, 3))) void say(const char *what, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("   %-9s ", what);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

static void title(const char *text) { printf(isatty(1) ? "\n\033[1m%s\033[0m\n" : "\n%s\n", text); }
#define fail(...) (say("FAILED", __VA_ARGS__), say("", "the store is kept: %s", directory), exit(1))

static void must(int status, const char *what)
{
    char text[1024];
    store_last_error(text, sizeof text);
    if (status != VMSTORE_OK)
        fail("%s: %s: %s", what, store_strerror(status), text);
}

static uint64_t microseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- The guest: 74 bytes of 64-bit code that read and write 256 MiB at random ------------------ */
#define RAM_BYTES 0x10000000u   /* at guest address 0 */
#define COUNTER   0x0000u       /* where the guest writes how many steps it has made */
#define CODE      0x1000u
#define TABLES    0x2000u       /* three pages: all of RAM at its own address */
#define DATA      0x0800u       /* the guest writes at this offset of a page, also of the pages above */
#define ROUNDS    32768u        /* random numbers between two writes: they set the speed */
#define ADDEND    0x3c6ef35fu
#define LE32(n)   (n) & 255, (n) >> 8 & 255, (n) >> 16 & 255, (n) >> 24 & 255

/* Each step chooses a random page and adds the number in that page to the generator's state. After one wrong
 * byte the guest takes another path for ever. eax: generator, ecx: rounds left, esi: steps. No flags change. */
static const uint8_t guest_code[] = {
    0xb9, LE32(ROUNDS),             /* 00 next: mov   ecx, ROUNDS                           */
    0x8d, 0x84, 0x80, LE32(ADDEND), /* 05 mix:  lea   eax, [rax + rax*4 + ADDEND]           */
    0x0f, 0xc8,                     /* 0c       bswap eax                                   */
    0xe2, 0xf5,                     /* 0e       loop  mix                                   */
    0x0f, 0xb7, 0xd0,               /* 10       movzx edx, ax       ; one of 65,536 pages   */
    0x8d, 0x14, 0xd5, LE32(0),      /* 13       lea   edx, [rdx*8]                          */
    0x8d, 0x14, 0xd5, LE32(0),      /* 1a       lea   edx, [rdx*8]                          */
    0x8d, 0x14, 0xd5, LE32(0),      /* 21       lea   edx, [rdx*8]                          */
    0x8d, 0x14, 0xd5, LE32(0),      /* 28       lea   edx, [rdx*8]  ; times 4096            */
    0x8b, 0xba, LE32(DATA),         /* 2f       mov   edi, [rdx + DATA]                     */
    0x8d, 0x04, 0x38,               /* 35       lea   eax, [rax + rdi]                      */
    0x89, 0x82, LE32(DATA),         /* 38       mov   [rdx + DATA], eax                     */
    0x8d, 0x76, 0x01,               /* 3e       lea   esi, [rsi + 1]                        */
    0x89, 0x34, 0x25, LE32(COUNTER), /* 41      mov   [COUNTER], esi                        */
    0xeb, 0xb6,                     /* 48       jmp   next                                  */
};

/* Before the first instruction. The page tables are marked accessed and dirty: the processor need not write there. */
static void boot(uint32_t *ram, struct kvm_regs *r)
{
    uint64_t *tables = (uint64_t *)(void *)ram + TABLES / 8;
    tables[0] = (TABLES + 0x1000) | 0x27;
    tables[512] = (TABLES + 0x2000) | 0x27;
    for (uint64_t i = 0; i < RAM_BYTES >> 21; i++)
        tables[1024 + i] = i << 21 | 0xe7;
    memcpy((char *)ram + CODE, guest_code, sizeof guest_code);
    *r = (struct kvm_regs){ .rip = CODE, .rflags = 2 };
}

/* One instruction in software. Stores are atomic because another thread reads the counter meanwhile. */
static inline void execute(uint32_t *ram, struct kvm_regs *r)
{
    uint32_t eax = (uint32_t)r->rax, edx = (uint32_t)r->rdx;
    switch (r->rip - CODE) {
    case 0x00: r->rip += 5; r->rcx = ROUNDS; break;
    case 0x05: r->rip += 7; r->rax = eax * 5 + ADDEND; break;
    case 0x0c: r->rip += 2; r->rax = __builtin_bswap32(eax); break;
    case 0x0e: r->rip = CODE + (--r->rcx ? 0x05 : 0x10); break;
    case 0x10: r->rip += 3; r->rdx = eax & 0xffff; break;
    case 0x13: case 0x1a: case 0x21: case 0x28: r->rip += 7; r->rdx = edx * 8; break;
    case 0x2f: r->rip += 6; r->rdi = ram[(edx + DATA) / 4]; break;
    case 0x35: r->rip += 3; r->rax = (uint32_t)(eax + r->rdi); break;
    case 0x38: r->rip += 6; __atomic_store_n(&ram[(edx + DATA) / 4], eax, __ATOMIC_RELAXED); break;
    case 0x3e: r->rip += 3; r->rsi = (uint32_t)(r->rsi + 1); break;
    case 0x41: r->rip += 7; __atomic_store_n(&ram[COUNTER / 4], (uint32_t)r->rsi, __ATOMIC_RELAXED); break;
    case 0x48: r->rip = CODE; break;
    default:   fail("the guest's instruction pointer went to 0x%llx", r->rip);
    }
}

/* ---- The vCPU: run it, pause it, save its state and load it ------------------------------------ */
/* The `devices` module: all state of this guest. Other guests have interrupt controllers, clocks, MSRs. */
struct machine {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_fpu fpu;
    struct kvm_vcpu_events events;
};

enum direction { SAVE, LOAD };
static const struct {
    size_t at;
    unsigned long request[2];
} parts[] = {   /* in the order of loading */
    { offsetof(struct machine, sregs), { KVM_GET_SREGS, KVM_SET_SREGS } },
    { offsetof(struct machine, regs), { KVM_GET_REGS, KVM_SET_REGS } },
    { offsetof(struct machine, fpu), { KVM_GET_FPU, KVM_SET_FPU } },
    { offsetof(struct machine, events), { KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS } },
};

static struct kvm_run software_run;
static struct {
    uint32_t *ram;              /* the `ram` module */
    struct machine *devices;    /* the `devices` module */
    int vcpu;                   /* negative: a thread executes the guest in software, with these registers */
    struct kvm_regs software;
    struct kvm_run *run;        /* the software guest obeys immediate_exit, as KVM does */
    pthread_t thread;
    sem_t go, parked;
    bool running;
} vm = { .vcpu = -1, .run = &software_run };

static uint32_t steps_made(void) { return __atomic_load_n(&vm.ram[COUNTER / 4], __ATOMIC_RELAXED); }

/* Moves the paused vCPU's state into the `devices` module, or back. */
static void vcpu_state(enum direction direction)
{
    struct kvm_regs *regs[2] = { &vm.software, &vm.devices->regs };
    if (vm.vcpu < 0)
        *regs[direction == SAVE] = *regs[direction == LOAD];
    for (size_t i = 0; vm.vcpu >= 0 && i < sizeof parts / sizeof *parts; i++)
        if (ioctl(vm.vcpu, parts[i].request[direction], (char *)vm.devices + parts[i].at))
            fail("KVM and part %zu of the vCPU's state: %s", i, strerror(errno));
}

static void *guest_thread(void *unused)
{
    for (;;) {
        while (sem_wait(&vm.go))
            ;   /* a late signal interrupted it */
        while (!__atomic_load_n(&vm.run->immediate_exit, __ATOMIC_SEQ_CST))
            if (vm.vcpu < 0)
                execute(vm.ram, &vm.software);
            else if (ioctl(vm.vcpu, KVM_RUN, 0) == 0)
                fail("the guest left KVM_RUN by itself, with exit reason %u", vm.run->exit_reason);
            else if (errno != EINTR)
                fail("KVM_RUN: %s", strerror(errno));
        sem_post(&vm.parked);
    }
    return unused;
}

/* To pause, a signal interrupts KVM_RUN. immediate_exit is set before: a vCPU that is about to enter leaves again. */
static void guest_go(bool go)
{
    __atomic_store_n(&vm.run->immediate_exit, !go, __ATOMIC_SEQ_CST);
    if (go && !vm.running)
        sem_post(&vm.go);
    if (!go && vm.running && pthread_kill(vm.thread, SIGUSR1) == 0)
        sem_wait(&vm.parked);
    vm.running = go;
}

static void on_signal(int number) { (void)number; /* the signal has interrupted KVM_RUN; there is no other work */ }

/* Makes a vCPU that runs in the `ram` module. Returns NULL, or the reason why this host cannot. */
static const char *kvm_start(void)
{
    struct kvm_userspace_memory_region slot = { .memory_size = RAM_BYTES, .userspace_addr = (uintptr_t)vm.ram };
    int kvm = getenv("MINIVMM_NO_KVM") ? -1 : open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        return getenv("MINIVMM_NO_KVM") ? "MINIVMM_NO_KVM is set" : strerror(errno);
    int machine = ioctl(kvm, KVM_CREATE_VM, 0), bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    int vcpu = ioctl(machine, KVM_CREATE_VCPU, 0);
    void *run = mmap(NULL, bytes < 0 ? 0 : (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED || ioctl(machine, KVM_SET_USER_MEMORY_REGION, &slot)
        || ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0)
        return "/dev/kvm opens, but cannot run this machine";
    vm.run = run, vm.vcpu = vcpu;
    return NULL;
}

/* Boots in 64-bit user mode, which a KVM inside another virtual machine runs at full speed too. */
static void guest_boot(void)
{
    struct kvm_sregs *s = &vm.devices->sregs;
    struct kvm_segment flat = { .limit = UINT32_MAX, .selector = 0x13, .dpl = 3, .type = 3,
                                .present = 1, .db = 1, .s = 1, .g = 1 };
    vcpu_state(SAVE);               /* the state that KVM begins with */
    s->ds = s->es = s->fs = s->gs = s->ss = s->cs = flat;
    s->cs.selector = 0x1b, s->cs.type = 11, s->cs.l = 1, s->cs.db = 0;
    s->cr3 = TABLES;
    s->cr4 |= 0x20;                 /* PAE */
    s->efer |= 0x500;               /* long mode */
    s->cr0 |= 0x80000001;           /* paging and protection */
    boot(vm.ram, &vm.devices->regs);
}

/* ---- The proofs -------------------------------------------------------------------------------- */

static int witness, parent;     /* a file: all memory of commit N lies at N times the memory's size; a pipe */
static _Alignas(4096) uint32_t model_ram[RAM_BYTES / 4];
static struct kvm_regs model;

static size_t memory_bytes(void) { return RAM_BYTES + (size_t)sysconf(_SC_PAGESIZE); }
static char *memory(size_t at) { return at < RAM_BYTES ? (char *)vm.ram + at : (char *)vm.devices + (at - RAM_BYTES); }
static off_t in_witness(uint64_t commit, size_t at) { return (off_t)(commit * memory_bytes() + at); }

/* Copies all memory of the paused guest into the witness, leaving holes for zero pages. */
static void bear_witness(uint64_t commit)
{
    static const char zeros[4096];
    for (size_t at = 0; at < memory_bytes(); at += 4096)
        if (memcmp(memory(at), zeros, 4096) && pwrite(witness, memory(at), 4096, in_witness(commit, at)) != 4096)
            fail("the witness cannot be written: %s", strerror(errno));
}

/* Runs the model, if necessary from its first instruction, until its registers are equal to `goal`. */
static bool model_reaches(struct kvm_regs goal)
{
    goal.rflags &= ~0x10000ull;     /* RF: the exit from the guest can set it */
    if (goal.rsi <= model.rsi || model.rip == 0) {
        madvise(model_ram, sizeof model_ram, MADV_DONTNEED);    /* zeros again */
        boot(model_ram, &model);
    }
    for (; model.rsi <= goal.rsi; execute(model_ram, &model)) {
        if (model.rip == goal.rip && memcmp(&model, &goal, sizeof goal) == 0)
            return true;
        while (model.rip == CODE + 0x05 && model.rsi < goal.rsi && model.rcx > 1)   /* the same, but faster */
            model.rax = __builtin_bswap32((uint32_t)model.rax * 5 + ADDEND), model.rcx--;
    }
    return false;
}

/* Compares all memory of the paused guest with that of a commit or, for 0, with the model. */
static void prove(uint64_t commit)
{
    struct kvm_regs *r = &vm.devices->regs;
    char copy[4096];
    if (!commit && !model_reaches(*r))
        fail("at step %llu, rip 0x%llx, the registers are not the model's", r->rsi, r->rip);
    for (size_t at = 0; at < (commit ? memory_bytes() : RAM_BYTES); at += 4096) {
        const char *is = memory(at), *want = commit ? copy : (char *)model_ram + at;
        if (commit && pread(witness, copy, 4096, in_witness(commit, at)) != 4096)
            fail("the witness cannot be read: %s", strerror(errno));
        for (size_t i = 0; memcmp(is, want, 4096) && i < 4096; i++)
            if (is[i] != want[i])
                fail("the byte at 0x%zx is 0x%02x and should be 0x%02x", at + i, is[i] & 255, want[i] & 255);
    }
    commit ? say("PROVED", "all memory is as it was in commit %lu", commit)
           : say("PROVED", "all memory and registers are the model's at step %llu, rip 0x%llx", r->rsi, r->rip);
    if (write(parent, "p", 1) != 1)
        exit(1);    /* the parent has ended */
}

static int is_shown(const struct dirent *entry) { return entry->d_name[0] != '.'; }

/* Lists the store's files, a line for each module. The links must point to the expected head. */
static void show_files(uint64_t head)
{
    struct dirent **found;
    int count = scandir(directory, &found, is_shown, alphasort);
    for (int i = 0; i < count; free(found[i++])) {
        char path[4096], target[256] = "", *number;
        snprintf(path, sizeof path, "%s/%s", directory, found[i]->d_name);
        bool link = readlink(path, target, sizeof target - 1) > 0;
        printf(i == 0 ? "   files     " : strchr(found[i]->d_name, '_') ? " " : "\n             ");
        printf(link ? " %s -> %s" : " %s", found[i]->d_name, target);
        if (link && (!(number = strstr(target, "_Commit")) || strtoull(number + 7, NULL, 10) != head))
            fail("this link should point to commit %lu", head);
    }
    putchar('\n');
    free(found);
}

/* ---- The VMM ----------------------------------------------------------------------------------- */

static vmstore *store;

static void on_log(int level, const char *message, void *user_data)
{
    (void)user_data;
    say(level == VMSTORE_LOG_WARNING ? "WARNING" : "log", "%s", message);
}

static void vmm_open(uint64_t expected_head)
{
    vmstore_capabilities host = { .struct_size = sizeof host };
    vmstore_open_options options = { .struct_size = sizeof options, .log = on_log };
    vmstore_module *ram, *devices;
    uint64_t head, begin = microseconds();
    must(store_open(directory, &options, &store), "store_open");
    must(store_map_module(store, "ram", RAM_BYTES, NULL, &ram), "map ram");
    must(store_map_module(store, "devices", memory_bytes() - RAM_BYTES, NULL, &devices), "map devices");
    must(store_head(store, &head), "store_head");
    say("open", "at commit %lu, with both modules mapped, in %lu us", head, microseconds() - begin);
    if (head != expected_head)
        fail("it should be at commit %lu: is there an older store in this directory?", expected_head);
    vm.ram = store_module_address(ram);
    vm.devices = store_module_address(devices);

    must(store_probe(NULL, &host), "store_probe");
    say("tracker", "%s: %s", host.auto_tracker == VMSTORE_TRACKER_KERNEL ? "kernel" : "compare", host.tracker_reason);
    const char *why_not = kvm_start();
    say("guest", why_not ? "a thread executes it in software; no /dev/kvm: %s" : "a vCPU of /dev/kvm%s",
        why_not ? why_not : "");
    head ? prove(head) : guest_boot();
    vcpu_state(LOAD);
    sigaction(SIGUSR1, &(struct sigaction){ .sa_handler = on_signal }, NULL);
    if (sem_init(&vm.go, 0, 0) || sem_init(&vm.parked, 0, 0) || pthread_create(&vm.thread, NULL, guest_thread, NULL))
        fail("no thread for the guest");
    show_files(head);
}

/* Lets the guest run until it has made so many more steps. The guest continues to run then. */
static void vmm_run(uint32_t steps)
{
    uint32_t from = steps_made();
    guest_go(true);
    while (steps_made() - from < steps)
        usleep(100);
}

/* The guest runs before and after the commit. It is paused for the capture only. */
static void vmm_commit(uint64_t expected, const char *label)
{
    vmstore_commit_options options = { .struct_size = sizeof options, .label = label };
    vmstore_stats stats = { .struct_size = sizeof stats };
    vmstore_capture *capture;
    vmm_run(500);
    uint64_t commit, begin = microseconds();
    guest_go(false);
    vcpu_state(SAVE);
    must(store_capture(store, &options, &capture), "store_capture");
    uint64_t pause = microseconds() - begin;
    prove(0);       /* only the proof needs these two calls: their time is not counted */
    bear_witness(expected);
    begin = microseconds();
    uint32_t steps = steps_made();
    guest_go(true);
    must(store_capture_commit(capture, &commit), "store_capture_commit");
    uint64_t total = pause + microseconds() - begin;
    must(store_stats(store, &stats), "store_stats");
    say("commit", "%lu: %5lu pages, %6lu us paused, %6lu us in all; meanwhile the guest made %u steps",
        commit, stats.last_dirty_pages, pause, total, steps_made() - steps);
    show_files(expected);
}

static void vmm_persist(uint64_t head)
{
    uint64_t begin = microseconds();
    must(store_persist(store, NULL), "store_persist");
    say("persist", "%lu us, not paused", microseconds() - begin);
    show_files(head);
}

static void vmm_restore(uint64_t commit)
{
    vmstore_stats stats = { .struct_size = sizeof stats };
    uint64_t begin = microseconds();
    guest_go(false);
    must(store_restore(store, commit, NULL), "store_restore");
    vcpu_state(LOAD);
    must(store_stats(store, &stats), "store_stats");
    say("restore", "%lu: %5lu pages, %6lu us paused", commit, stats.last_restored_pages, microseconds() - begin);
    prove(commit);
    show_files(commit);
}

/* Lets the guest continue, pauses it, and compares it with the model. */
static void vmm_carry_on(uint32_t steps)
{
    vmm_run(steps);
    guest_go(false);
    vcpu_state(SAVE);
    prove(0);
}

static int vmm_main(int life)
{
    alarm(120);     /* a guest that makes no steps is a failure too */
    if (life == 1) {
        title("1  A new store, and a guest in it");
        vmm_open(0);
        title("2  A commit; the guest continues");
        vmm_commit(1, "awake");
        title("3  A second commit: its cost is that of the pages written since the first");
        vmm_commit(2, "further on");
        title("4  Persist: both commits now survive a power cut");
        vmm_persist(2);
        title("5  A third commit, not persisted");
        vmm_commit(3, "at the edge");
        vmm_run(300);
        return write(parent, "k", 1) == 1 ? pause() : 1;    /* asks to be killed; the guest runs meanwhile */
    }
    title("7  A new process: memory has the bytes of commit 3, and the guest continues");
    vmm_open(3);
    vmm_carry_on(300);
    title("8  Restore commit 1 in place; the guest continues from there: a branch");
    vmm_restore(1);
    vmm_carry_on(300);
    vmm_commit(4, "another way");
    vmm_persist(4);
    title("9  Restore commit 3, on the other branch; the guest continues");
    vmm_restore(3);
    vmm_carry_on(300);
    title("10 The history; every file is verified");
    for (uint64_t n = 1; n <= 4; n++) {
        vmstore_commit_info info = { .struct_size = sizeof info };
        must(store_commit_info(store, n, &info), "store_commit_info");
        say("commit", "%lu on %lu%s  %s", n, info.parent, info.persisted ? ", persisted:" : ":", info.label);
    }
    must(store_verify(store, NULL), "store_verify");
    must(store_close(store), "store_close");    /* the guest is paused: store_close unmaps its memory */
    return 0;
}

/* ---- The parent -------------------------------------------------------------------------------- */

/* Starts a VMM, kills it when it asks for that, and returns the number of its proofs. */
static int live(const char *life, int expected_status)
{
    int ends[2], status, proofs = 0;
    char numbers[48], word;
    pid_t vmm = pipe2(ends, O_CLOEXEC) ? -1 : fork();
    if (vmm < 0)
        fail("no second process: %s", strerror(errno));
    if (vmm == 0) {
        fcntl(ends[1], F_SETFD, 0);
        snprintf(numbers, sizeof numbers, "%s %d %d", life, ends[1], witness);
        execl("/proc/self/exe", "minivmm", directory, numbers, NULL);
        _exit(127);
    }
    close(ends[1]);
    for (; read(ends[0], &word, 1) == 1; proofs += word == 'p')
        if (word == 'k')
            kill(vmm, SIGKILL);
    if (waitpid(vmm, &status, 0) != vmm || status != expected_status)
        fail("the VMM ended with wait status 0x%x", status);
    return proofs;
}

int main(int argc, char **argv)
{
    char fresh[4096];
    int life;
    setvbuf(stdout, NULL, _IOLBF, 0);   /* two processes write to stdout in turn */
    if (argc == 3 && sscanf(argv[2], "%d %d %d", &life, &parent, &witness) == 3) {
        directory = argv[1];
        return vmm_main(life);
    }
    snprintf(fresh, sizeof fresh, "%s/minivmm-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    directory = argc > 1 ? argv[1] : mkdtemp(fresh);
    witness = memfd_create("witness", 0);
    if (!directory || witness < 0 || ftruncate(witness, in_witness(5, 0)))
        fail("no temporary directory, or no memory file: %s", strerror(errno));
    printf("minivmm: a guest with 256 MiB in vmstore %s, in %s\n", store_version(), directory);
    int proofs = live("1", SIGKILL);
    title("6  SIGKILL");
    say("killed", "while the guest ran, at least 300 steps after commit 3");
    proofs += live("2", 0);
    printf("\nPROVED: %d times all 256 MiB were right, byte for byte: 4 commits, 1 SIGKILL, 2 restores.\n", proofs);
    return argc > 1 ? 0 : execlp("rm", "rm", "-rf", "--", directory, NULL);
}
