/* The smallest program that shows that an installed vmstore works: it commits, changes, restores and compares.
 * argv[1] is a directory that does not exist yet; prints the version of the library. */
#include <vmstore.h>

#include <stdio.h>
#include <string.h>

static int failed(const char *what)
{
    char text[1024];
    store_last_error(text, sizeof text);
    fprintf(stderr, "%s: %s\n", what, text);
    return 1;
}

int main(int count, char **words)
{
    vmstore *store;
    vmstore_module *ram;
    uint64_t first, second;
    char *memory;

    if (count != 2 || store_abi_version() != VMSTORE_ABI_VERSION) return 2;
    if (store_open(words[1], NULL, &store)) return failed("open");
    if (store_map_module(store, "ram", 1 << 20, NULL, &ram)) return failed("map");
    memory = store_module_address(ram);

    strcpy(memory, "before");
    if (store_commit(store, NULL, &first)) return failed("commit");
    strcpy(memory, "after");
    if (store_commit(store, NULL, &second)) return failed("commit");
    if (store_persist(store, NULL)) return failed("persist");
    if (store_restore(store, first, NULL)) return failed("restore");
    if (strcmp(memory, "before") != 0) {
        fprintf(stderr, "restored \"%s\"\n", memory);
        return 1;
    }
    if (store_close(store)) return failed("close");
    puts(store_version());
    return 0;
}
