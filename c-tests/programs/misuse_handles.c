/* Handles that are stale, closed twice, of the wrong kind, or invented: every function refuses each of them with
 * VMSTORE_E_HANDLE (address NULL, size 0). What is open keeps working. */
#include "misuse.h"

static unsigned long calls;

static void everything_refuses(uint64_t number)
{
    void *handle = (void *)(uintptr_t)number;
    calls += store_calls_fail(handle, VMSTORE_E_HANDLE, "store");
    calls += module_calls_fail(handle, VMSTORE_E_HANDLE, "module");
    calls += capture_calls_fail(handle, VMSTORE_E_HANDLE, "capture");
}

static void other_kinds(vmstore *store, vmstore_module *module, vmstore_capture *capture)
{
    trying("handles of the wrong kind");
    calls += store_calls_fail((vmstore *)(void *)module, VMSTORE_E_HANDLE, "store");
    calls += store_calls_fail((vmstore *)(void *)capture, VMSTORE_E_HANDLE, "store");
    calls += module_calls_fail((vmstore_module *)(void *)store, VMSTORE_E_HANDLE, "module");
    calls += module_calls_fail((vmstore_module *)(void *)capture, VMSTORE_E_HANDLE, "module");
    calls += capture_calls_fail((vmstore_capture *)(void *)store, VMSTORE_E_HANDLE, "capture");
    calls += capture_calls_fail((vmstore_capture *)(void *)module, VMSTORE_E_HANDLE, "capture");
}

/* One store, one module and one capture are open. No other number is a handle, however near it is. */
static void near_misses(vmstore *store, vmstore_module *module, vmstore_capture *capture)
{
    uint64_t numbers[3] = {(uintptr_t)store, (uintptr_t)module, (uintptr_t)capture};
    for (int kind = 0; kind < 3; kind++)
        for (int bit = 0; bit < 64; bit++) {
            uint64_t number = numbers[kind] ^ UINT64_C(1) << bit;
            if (number == numbers[0] || number == numbers[1] || number == numbers[2]) continue;
            trying("handle %d with bit %d flipped", kind, bit);
            everything_refuses(number);
        }
}

static void invented(void)
{
    static int somewhere;
    int on_the_stack = 0;
    void *on_the_heap = malloc(64);
    uint64_t state = 20260722;
    CHECK(on_the_heap);
    trying("addresses");
    everything_refuses((uintptr_t)&somewhere);
    everything_refuses((uintptr_t)&on_the_stack);
    everything_refuses((uintptr_t)on_the_heap);
    everything_refuses((uintptr_t)invented);
    everything_refuses((uintptr_t)&environ);
    free(on_the_heap);
    for (uint64_t number = 1; number < 64; number++) {
        trying("the number %" PRIu64, number);
        everything_refuses(number);
        everything_refuses(UINT64_MAX - number + 1);
        everything_refuses(UINT64_C(1) << number);
    }
    for (int i = 0; i < 500; i++) {
        uint64_t number = next_random(&state);
        if (i % 2) number &= UINT64_C(0x00000000FFFFFFFF);
        trying("the random number %#" PRIx64, number);
        everything_refuses(number);
    }
}

/* A handle that has ended stays invalid, whatever is opened later. */
static void stale(const char *directory)
{
    enum { ROUNDS = 40 };
    static vmstore *stores[ROUNDS];
    static vmstore_module *modules[ROUNDS];
    static vmstore_capture *captures[ROUNDS];
    uint64_t commit, last = 0;
    for (int i = 0; i < ROUNDS; i++) {
        trying("round %d of opening and closing", i);
        OK(store_open(path_in(directory, "rounds"), NULL, &stores[i]));
        OK(store_map_module(stores[i], "ram", page_size(), NULL, &modules[i]));
        *(int *)store_module_address(modules[i]) = i + 1;
        OK(store_capture(stores[i], NULL, &captures[i]));
        switch (i % 3) {
        case 0: /* ended by its own calls */
            OK(store_capture_commit(captures[i], &commit));
            CHECK(commit > last);
            last = commit;
            calls += capture_calls_fail(captures[i], VMSTORE_E_HANDLE, "capture");
            OK(store_unmap_module(modules[i]));
            break;
        case 1:
            OK(store_capture_cancel(captures[i]));
            calls += capture_calls_fail(captures[i], VMSTORE_E_HANDLE, "capture");
            OK(store_unmap_module(modules[i]));
            calls += module_calls_fail(modules[i], VMSTORE_E_HANDLE, "module");
            break;
        case 2: /* ended by closing the store */
            break;
        }
        OK(store_close(stores[i]));
        for (int old = 0; old <= i; old += i - old < 4 ? 1 : 3) {
            trying("the handles of round %d after round %d", old, i);
            calls += store_calls_fail(stores[old], VMSTORE_E_HANDLE, "store");
            calls += module_calls_fail(modules[old], VMSTORE_E_HANDLE, "module");
            calls += capture_calls_fail(captures[old], VMSTORE_E_HANDLE, "capture");
        }
    }
}

/* Closing one of two stores ends the modules of this store and no others. */
static void only_its_own(const char *directory)
{
    vmstore *first, *second;
    vmstore_module *of_first, *of_second;
    uint64_t commit;
    trying("two stores, one closed");
    OK(store_open(path_in(directory, "first"), NULL, &first));
    OK(store_open(path_in(directory, "second"), NULL, &second));
    CHECK(first != second);
    OK(store_map_module(first, "ram", page_size(), NULL, &of_first));
    OK(store_map_module(second, "ram", 2 * page_size(), NULL, &of_second));
    OK(store_close(first));
    calls += store_calls_fail(first, VMSTORE_E_HANDLE, "store");
    calls += module_calls_fail(of_first, VMSTORE_E_HANDLE, "module");
    memset(store_module_address(of_second), 3, 2 * page_size());
    CHECK(store_module_size(of_second) == 2 * page_size());
    OK(store_commit(second, NULL, &commit));
    CHECK(commit == 1);
    OK(store_close(second));
}

int main(int argc, char **argv)
{
    vmstore *store;
    vmstore_module *module;
    vmstore_capture *capture;
    uint64_t commit, head = 0;
    CHECK(argc > 1);
    trying("handles before anything was opened");
    everything_refuses(1);
    everything_refuses(UINT64_C(0x0100000001000001));
    invented();

    OK(store_open(path_in(argv[1], "store"), NULL, &store));
    OK(store_map_module(store, "ram", 4 * page_size(), NULL, &module));
    char *memory = store_module_address(module);
    memset(memory, 1, 4 * page_size());
    OK(store_commit(store, NULL, &commit));
    memset(memory, 2, page_size());
    OK(store_capture(store, NULL, &capture));

    other_kinds(store, module, capture);
    near_misses(store, module, capture);
    invented();
    trying("the store, module and capture that were open meanwhile");
    OK(store_capture_commit(capture, &commit));
    CHECK(commit == 2);
    OK(store_head(store, &head));
    CHECK(head == 2 && store_module_address(module) == memory);
    OK(store_restore(store, 1, NULL));
    CHECK(all_bytes_are(memory, 4 * page_size(), 1));
    OK(store_close(store));
    trying("closing twice");
    everything_refuses((uintptr_t)store);
    everything_refuses((uintptr_t)module);
    everything_refuses((uintptr_t)capture);

    stale(argv[1]);
    only_its_own(argv[1]);
    return finished("%lu calls with stale, wrong and invented handles were refused", calls);
}
