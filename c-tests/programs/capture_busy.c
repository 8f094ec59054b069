/* While one capture is being written, a second capture is refused at once: it does not wait while the guest is
 * paused. Also tries arena limits at their edges. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>

#include "model.h"

static atomic_int begun, written;
static uint64_t made;

static void *write_it(void *capture)
{
    atomic_store(&begun, 1);
    OK(store_capture_commit(capture, &made));
    atomic_store(&written, 1);
    return NULL;
}

/* Writes all of a module, captures the module, and asks for more captures while a thread writes the first one. */
static unsigned refused_while_writing(const char *path)
{
    const size_t size = (slow() ? 4 : 64) << 20;
    vmstore *store;
    vmstore_module *module, *module_again;
    vmstore_capture *capture, *other = NULL;
    pthread_t thread;
    atomic_store(&begun, 0);
    atomic_store(&written, 0);
    OK(store_open(path, NULL, &store));
    OK(store_map_module(store, "ram", size, NULL, &module));
    unsigned char *memory = store_module_address(module);
    for (size_t at = 0; at < size; at += PAGE) memory[at] = (unsigned char)(at / PAGE % 255 + 1);
    OK(store_capture(store, NULL, &capture));
    FAILS(store_capture(store, NULL, &other), VMSTORE_E_BUSY, "capture");
    CHECK(pthread_create(&thread, NULL, write_it, capture) == 0);
    /* Long enough for the thread to be inside the call, and short compared with the time that the writing takes. */
    while (!atomic_load(&begun)) usleep(100);
    usleep(2000);
    unsigned refused = 0;
    while (!atomic_load(&written)) {
        int status = store_capture(store, NULL, &other);
        if (status == VMSTORE_OK) break; /* the first one has just ended */
        CHECK(status == VMSTORE_E_BUSY);
        /* The first capture may end before any of these calls. */
        status = store_restore(store, 7, NULL);
        CHECK(status == VMSTORE_E_BUSY || status == VMSTORE_E_NOT_FOUND);
        status = store_map_module(store, "ram", 0, NULL, &module_again);
        CHECK(status == VMSTORE_E_BUSY || status == VMSTORE_E_EXISTS);
        refused++;
    }
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(made == 1);
    if (other) OK(store_capture_cancel(other));
    OK(store_capture(store, NULL, &other));
    OK(store_capture_cancel(other));
    OK(store_close(store));
    return refused;
}

/* Arena limits of one page, of less than one page, and of more than all pages: each commit is exact. */
static void arena_limits(const char *stores)
{
    const uint64_t limits[] = {1, PAGE, PAGE + 1, UINT64_MAX / 2, UINT64_MAX};
    for (unsigned i = 0; i < sizeof limits / sizeof *limits; i++) {
        char name[32];
        snprintf(name, sizeof name, "limit%u", i);
        vmstore_open_options options = {.struct_size = sizeof options, .arena_limit = limits[i]};
        vmstore *store;
        vmstore_module *module;
        uint64_t first, second;
        OK(store_open(path_in(stores, name), &options, &store));
        OK(store_map_module(store, "ram", 16 * PAGE, NULL, &module));
        unsigned char *memory = store_module_address(module);
        for (size_t at = 0; at < 16 * PAGE; at++) memory[at] = (unsigned char)(at * 7 + i);
        alarm(60); /* ends the program if a commit waits for ever for room in the arena */
        OK(store_commit(store, NULL, &first));
        memset(memory, 0, 16 * PAGE);
        OK(store_commit(store, NULL, &second));
        OK(store_restore(store, first, NULL));
        alarm(0);
        for (size_t at = 0; at < 16 * PAGE; at++) CHECK(memory[at] == (unsigned char)(at * 7 + i));
        OK(store_close(store));
    }
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("capture_busy");
    /* If calls waited for the first capture, none would be refused. On a busy machine the calls of one round may
     * come too late to be refused, but not those of five rounds. */
    unsigned refused = 0;
    for (int round = 0; round < 5 && refused == 0; round++) {
        char name[16];
        snprintf(name, sizeof name, "busy%d", round);
        refused = refused_while_writing(path_in(arguments[1], name));
    }
    CHECK(refused > 0);
    arena_limits(arguments[1]);
    printf("capture_busy: %u rounds of calls refused at once beside a capture being written, 5 arena limits\n",
           refused);
    return 0;
}
