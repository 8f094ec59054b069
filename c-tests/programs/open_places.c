/* Something else at the store's path: a file, a directory of other files, a FIFO, a missing parent, directories
 * that may not be read or written, symlinks, long and odd paths. What was there does not change. */
#include "misuse.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/wait.h>

static const char *directory;
static unsigned refused, opened_well;

static void opens(const char *path, uint32_t flags)
{
    vmstore_open_options options = {.struct_size = sizeof options, .flags = flags};
    vmstore *store;
    trying("%.200s, flags %" PRIu32, path, flags);
    OK(store_open(path, &options, &store));
    OK(store_verify(store, NULL));
    OK(store_close(store));
    opened_well++;
}

static void refuses(const char *path, uint32_t flags, int status, const char *words)
{
    vmstore_open_options options = {.struct_size = sizeof options, .flags = flags};
    vmstore *store = SENTINEL_POINTER(vmstore);
    trying("%.200s, flags %" PRIu32, path, flags);
    alarm(20); /* a FIFO must not be waited for */
    FAILS(store_open(path, &options, &store), status, words);
    alarm(0);
    CHECK(store == SENTINEL_POINTER(vmstore));
    refused++;
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static int file_holds(const char *path, const char *text)
{
    char bytes[256] = {0};
    FILE *file = fopen(path, "r");
    CHECK(file);
    size_t length = fread(bytes, 1, sizeof bytes - 1, file);
    CHECK(fclose(file) == 0);
    return length == strlen(text) && memcmp(bytes, text, length) == 0;
}

static void files_and_foreign_directories(void)
{
    const uint32_t flags[] = {VMSTORE_OPEN_CREATE, VMSTORE_OPEN_NO_CREATE, VMSTORE_OPEN_READ_ONLY};
    const char *file = path_in(directory, "a-file");
    const char *foreign = path_in(directory, "foreign");
    const char *fifo = path_in(directory, "fifo");
    write_file(file, "mine");
    CHECK(mkdir(foreign, 0755) == 0);
    char inside[4096], hidden[4096];
    snprintf(inside, sizeof inside, "%s/precious", foreign);
    snprintf(hidden, sizeof hidden, "%s/.vmstore", foreign);
    write_file(inside, "mine too");
    CHECK(mkfifo(fifo, 0600) == 0);

    refuses(file, VMSTORE_OPEN_CREATE, VMSTORE_E_EXISTS, "a-file");
    refuses(foreign, VMSTORE_OPEN_CREATE, VMSTORE_E_EXISTS, "foreign");
    refuses(fifo, VMSTORE_OPEN_CREATE, VMSTORE_E_EXISTS, "fifo");
    refuses("/dev/null", VMSTORE_OPEN_CREATE, VMSTORE_E_EXISTS, "/dev/null");
    /* With the other flags the error may be either: the path is in use, or it is no store. */
    for (size_t i = 1; i < 3; i++) {
        const char *const places[] = {file, foreign, fifo};
        for (size_t j = 0; j < 3; j++) {
            vmstore_open_options options = {.struct_size = sizeof options, .flags = flags[i]};
            vmstore *store = SENTINEL_POINTER(vmstore);
            trying("%s, flags %" PRIu32, places[j], flags[i]);
            alarm(20);
            int status = store_open(places[j], &options, &store);
            alarm(0);
            if (status != VMSTORE_E_EXISTS && status != VMSTORE_E_NOT_FOUND)
                FAIL("got %d (%s)", status, status ? last_error() : "-");
            CHECK(store == SENTINEL_POINTER(vmstore) && strrchr(places[j], '/') &&
                  strstr(last_error(), strrchr(places[j], '/') + 1));
            refused++;
        }
    }
    CHECK(file_holds(file, "mine") && file_holds(inside, "mine too") && !exists(hidden));
    /* A file at the path of the parent: the error may be either: in use, or no parent directory. */
    vmstore *below = SENTINEL_POINTER(vmstore);
    trying("a file in the place of the parent");
    int status = store_open(path_in(directory, "a-file/below"), NULL, &below);
    CHECK((status == VMSTORE_E_EXISTS || status == VMSTORE_E_NOT_FOUND) && strstr(last_error(), "a-file"));
    CHECK(below == SENTINEL_POINTER(vmstore) && file_holds(file, "mine"));
    refused++;

    /* A hidden directory alone does not make a directory of other files a store. */
    CHECK(mkdir(hidden, 0755) == 0);
    refuses(foreign, VMSTORE_OPEN_CREATE, VMSTORE_E_EXISTS, "foreign");
    CHECK(file_holds(inside, "mine too"));

    /* A store is not made inside another store's directory. It is made beside a directory whose name is only
     * similar to that of the hidden directory. */
    opens(path_in(directory, "outer"), VMSTORE_OPEN_CREATE);
    refuses(path_in(directory, "outer/inner"), VMSTORE_OPEN_CREATE, VMSTORE_E_INVALID, "outer/inner");
    CHECK(!exists(path_in(directory, "outer/inner")));
    CHECK(mkdir(path_in(directory, "home"), 0755) == 0);
    opens(path_in(directory, "home/.vmstore"), VMSTORE_OPEN_CREATE);
    opens(path_in(directory, "home/other"), VMSTORE_OPEN_CREATE);
    opens(path_in(directory, "home/.vmstore"), VMSTORE_OPEN_CREATE);
}

static void missing(void)
{
    const char *parent = path_in(directory, "gone");
    refuses(path_in(directory, "gone/store"), VMSTORE_OPEN_CREATE, VMSTORE_E_NOT_FOUND, "gone");
    refuses(path_in(directory, "gone/store"), VMSTORE_OPEN_READ_ONLY, VMSTORE_E_NOT_FOUND, "gone");
    CHECK(!exists(parent));
    refuses(parent, VMSTORE_OPEN_NO_CREATE, VMSTORE_E_NOT_FOUND, "gone");
    refuses(parent, VMSTORE_OPEN_READ_ONLY, VMSTORE_E_NOT_FOUND, "gone");
    refuses(parent, VMSTORE_OPEN_SALVAGE | VMSTORE_OPEN_NO_CREATE, VMSTORE_E_NOT_FOUND, "gone");
    CHECK(!exists(parent));

    const char *empty = path_in(directory, "empty");
    CHECK(mkdir(empty, 0755) == 0);
    refuses(empty, VMSTORE_OPEN_NO_CREATE, VMSTORE_E_NOT_FOUND, "empty");
    refuses(empty, VMSTORE_OPEN_READ_ONLY, VMSTORE_E_NOT_FOUND, "empty");
    CHECK(!exists(path_in(directory, "empty/.vmstore")));
    opens(empty, VMSTORE_OPEN_CREATE); /* an empty directory becomes a store */
    opens(empty, VMSTORE_OPEN_NO_CREATE);
    opens(empty, VMSTORE_OPEN_READ_ONLY);

    struct stat made;
    const char *fresh = path_in(directory, "fresh");
    opens(fresh, VMSTORE_OPEN_CREATE);
    CHECK(stat(fresh, &made) == 0 && (made.st_mode & 07777) == 0700);
}

static void odd_paths(void)
{
    char deep[5200];
    vmstore *store = SENTINEL_POINTER(vmstore);
    trying("a path of 5000 bytes");
    memset(deep, 'x', sizeof deep);
    int start = snprintf(deep, sizeof deep, "%s/", directory);
    for (int at = start; at < 5000; at++) deep[at] = (at - start) % 101 == 100 ? '/' : 'x';
    deep[5000] = 0;
    int status = store_open(deep, NULL, &store);
    CHECK(status < -4096 && store_last_errno() == ENAMETOOLONG && last_error()[0]);
    CHECK(strstr(last_error(), "xxxxxxxx"));
    status = store_open(path_in(directory, repeated('n', 256)), NULL, &store);
    CHECK(status < -4096 && store_last_errno() == ENAMETOOLONG && strstr(last_error(), "nnnnnnnn"));
    trying("an empty path");
    status = store_open("", NULL, &store);
    CHECK((status == VMSTORE_E_INVALID || status == VMSTORE_E_NOT_FOUND) && last_error()[0]);
    CHECK(store == SENTINEL_POINTER(vmstore));
    refused += 3;

    opens(path_in(directory, "with a space"), VMSTORE_OPEN_CREATE);
    opens(path_in(directory, "line\nbreak"), VMSTORE_OPEN_CREATE);
    opens(path_in(directory, "\xff\xfe not UTF-8"), VMSTORE_OPEN_CREATE);
    opens(path_in(directory, repeated('n', 255)), VMSTORE_OPEN_CREATE);
    opens(path_in(directory, "slashes///"), VMSTORE_OPEN_CREATE);
    opens(path_in(directory, "./slashes/../slashes/."), VMSTORE_OPEN_NO_CREATE);
}

static void symlinks(void)
{
    const char *target = path_in(directory, "target");
    const char *link = path_in(directory, "link");
    CHECK(mkdir(target, 0700) == 0 && symlink("target", link) == 0);
    opens(link, VMSTORE_OPEN_CREATE);
    opens(target, VMSTORE_OPEN_NO_CREATE);
    opens(link, VMSTORE_OPEN_READ_ONLY);
    struct stat status;
    CHECK(lstat(link, &status) == 0 && S_ISLNK(status.st_mode));
    const char *dangling = path_in(directory, "dangling"), *loop = path_in(directory, "loop");
    CHECK(symlink("nowhere", dangling) == 0 && symlink("loop", loop) == 0);
    refuses(dangling, VMSTORE_OPEN_NO_CREATE, VMSTORE_E_NOT_FOUND, "dangling");
    refuses(dangling, VMSTORE_OPEN_CREATE, VMSTORE_E_NOT_FOUND, "dangling leads to");
    vmstore *store = SENTINEL_POINTER(vmstore);
    trying("a symlink to itself");
    CHECK(store_open(loop, NULL, &store) < -4096 && strstr(last_error(), "loop"));
    CHECK(store == SENTINEL_POINTER(vmstore));
    refused++;
}

/* The child's working directory is the directory of the stores: it needs no access to the directories above. */
static void run_as_nobody(void (*body)(void))
{
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(chdir(directory) == 0);
        if (getuid() == 0) CHECK(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
        body();
        fflush(NULL);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) FAIL("the child ended with %#x", status);
}

/* The text names the path, or the file inside it that was in the way. */
static void refuses_with_errno(const char *path, uint32_t flags, const char *inside)
{
    vmstore_open_options options = {.struct_size = sizeof options, .flags = flags};
    vmstore *store = SENTINEL_POINTER(vmstore);
    trying("%s as nobody, flags %" PRIu32, path, flags);
    int status = store_open(path, &options, &store);
    if (status != VMSTORE_E_IO && status != VMSTORE_E_READ_ONLY)
        FAIL("got %d (%s)", status, status ? last_error() : "-");
    CHECK(store_last_errno() == EACCES || store_last_errno() == EPERM);
    if (!strstr(last_error(), path) && !strstr(last_error(), inside)) FAIL("the text is \"%s\"", last_error());
    CHECK(store == SENTINEL_POINTER(vmstore));
}

static void as_nobody(void)
{
    refuses_with_errno("unreadable", VMSTORE_OPEN_CREATE, "unreadable");
    refuses_with_errno("unreadable", VMSTORE_OPEN_NO_CREATE, "unreadable");
    refuses_with_errno("unreadable", VMSTORE_OPEN_READ_ONLY, "unreadable");
    refuses_with_errno("unreadable/below", VMSTORE_OPEN_CREATE, "unreadable");
    refuses_with_errno("unwritable", VMSTORE_OPEN_CREATE, ".vmstore");
    refuses_with_errno("unwritable/below", VMSTORE_OPEN_CREATE, "unwritable");
    refuses_with_errno("readable-store", VMSTORE_OPEN_CREATE, "journal");

    trying("a store that may be read and not written, read-only");
    vmstore_open_options options = {.struct_size = sizeof options, .flags = VMSTORE_OPEN_READ_ONLY};
    vmstore *store;
    vmstore_module *module;
    OK(store_open("readable-store", &options, &store));
    OK(store_map_module(store, "ram", 0, NULL, &module));
    CHECK(strcmp(store_module_address(module), "readable") == 0);
    OK(store_close(store));
}

static void permissions(void)
{
    const char *names[] = {"unreadable", "unwritable", "readable-store"};
    const mode_t modes[] = {0, 0555, 0555};
    vmstore *store;
    vmstore_module *module;
    uint64_t commit;
    char command[4200];
    OK(store_open(path_in(directory, "unreadable"), NULL, &store));
    OK(store_close(store));
    CHECK(mkdir(path_in(directory, "unwritable"), 0755) == 0);
    OK(store_open(path_in(directory, "readable-store"), NULL, &store));
    OK(store_map_module(store, "ram", page_size(), NULL, &module));
    strcpy(store_module_address(module), "readable");
    OK(store_commit(store, NULL, &commit));
    OK(store_persist(store, NULL));
    OK(store_close(store));
    snprintf(command, sizeof command, "chmod -R a+rX,a-w '%s'", path_in(directory, "readable-store"));
    CHECK(system(command) == 0);
    if (getuid() == 0) CHECK(chmod(directory, 0755) == 0); /* for the child, which runs as another user */
    for (int i = 0; i < 3; i++) CHECK(chmod(path_in(directory, names[i]), modes[i]) == 0);

    trying("directories that may not be read or written");
    run_as_nobody(as_nobody);
    refused += 7;

    for (int i = 0; i < 3; i++) CHECK(chmod(path_in(directory, names[i]), 0755) == 0);
    snprintf(command, sizeof command, "chmod -R u+rwX '%s'", path_in(directory, "readable-store"));
    CHECK(system(command) == 0);
    opens(path_in(directory, "readable-store"), VMSTORE_OPEN_NO_CREATE);
    opens(path_in(directory, "unreadable"), VMSTORE_OPEN_NO_CREATE);
}

/* store_probe is as careful with paths as store_open. */
static void probes(void)
{
    vmstore_capabilities out = {.struct_size = sizeof out};
    trying("store_probe of places that are no directories");
    FAILS(store_probe(path_in(directory, "gone"), &out), VMSTORE_E_NOT_FOUND, "gone");
    FAILS(store_probe(path_in(directory, "gone/below"), &out), VMSTORE_E_NOT_FOUND, "gone");
    CHECK(all_bytes_are((char *)&out + sizeof(size_t), sizeof out - sizeof(size_t), 0));
    alarm(20);
    CHECK(store_probe(path_in(directory, "fifo"), &out) < -4096 && strstr(last_error(), "fifo"));
    CHECK(store_probe(path_in(directory, "a-file"), &out) < -4096 && strstr(last_error(), "a-file"));
    CHECK(store_probe(path_in(directory, repeated('q', 300)), &out) < -4096);
    alarm(0);
    OK(store_probe(path_in(directory, "foreign"), &out));
    CHECK(out.is_store == 0 && out.page_size == page_size());
    OK(store_probe(path_in(directory, "link"), &out));
    CHECK(out.is_store == 1);
    refused += 5;
}

/* The library names files relative to the store: the text must say which store. */
static void damaged(void)
{
    const char *path = path_in(directory, "damaged");
    char journal[4200];
    opens(path, VMSTORE_OPEN_CREATE);
    snprintf(journal, sizeof journal, "%s/.vmstore/journal", path);
    write_file(journal, "not a journal");
    refuses(path, VMSTORE_OPEN_CREATE, VMSTORE_E_CORRUPT, path);
    refuses(path, VMSTORE_OPEN_CREATE, VMSTORE_E_CORRUPT, "journal");
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    directory = argv[1];
    files_and_foreign_directories();
    missing();
    odd_paths();
    symlinks();
    permissions();
    damaged();
    probes();
    return finished("%u places refused, %u opened", refused, opened_well);
}
