// Tries every class and call of vmstore.hpp; argv[1] is an empty directory. Compiled twice: with
// exceptions, where failures are also thrown, and with -fno-exceptions, where they are only read.

#include <vmstore.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>

namespace {

using vmstorepp::Capture;
using vmstorepp::Module;
using vmstorepp::Result;
using vmstorepp::Store;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            std::fprintf(stderr, "%s:%d: %s does not hold; last error: %s\n", __FILE__, __LINE__,  \
                         #condition, vmstorepp::last_error().c_str());                             \
            std::exit(1);                                                                          \
        }                                                                                          \
    } while (0)

constexpr std::uint64_t SIZE = 1 << 20;

// Handles can be moved and not copied, and a Result cannot be taken for its value.
template <class Handle>
constexpr bool only_moves = std::is_nothrow_move_constructible_v<Handle> &&
                            std::is_nothrow_move_assignable_v<Handle> &&
                            !std::is_copy_constructible_v<Handle> &&
                            !std::is_copy_assignable_v<Handle>;
static_assert(only_moves<Store> && only_moves<Module> && only_moves<Capture>);
static_assert(!std::is_convertible_v<Result<std::uint64_t>, std::uint64_t>);

char *bytes(const Module &module) { return static_cast<char *>(module.address()); }

// The value of a call that must succeed, in either kind of compilation.
template <class T> T must(Result<T> result)
{
    if (!result) {
        std::fprintf(stderr, "unexpected: %s\n", result.error().what());
        std::exit(1);
    }
    return *std::move(result);
}

void commits_and_restores(const std::string &directory)
{
    Store store = must(Store::open(directory.c_str()));
    Module ram = must(store.map_module("ram", SIZE));
    CHECK(ram.size() == SIZE && bytes(ram)[SIZE - 1] == 0);
    CHECK(must(store.head()) == 0);

    std::strcpy(bytes(ram), "first");
    vmstorepp::CommitOptions options;
    options.label = "the first";
    options.user_data = "registers";
    options.user_data_length = 9;
    std::uint64_t first = must(store.commit(options));

    std::strcpy(bytes(ram), "second");
    must(ram.mark_dirty(0, 7));
    std::uint64_t second = must(store.commit());
    CHECK(first == 1 && second == 2 && must(store.head()) == 2);
    must(store.persist());
    must(store.restore(first));
    CHECK(!std::strcmp(bytes(ram), "first") && must(store.head()) == 1);

    CHECK((must(store.list_commits()) == std::vector<std::uint64_t>{first, second}));
    vmstorepp::CommitInfo info = must(store.commit_info(first));
    CHECK(info.commit == first && info.parent == 0 && !std::strcmp(info.label, "the first"));
    CHECK(must(store.commit_info(second)).parent == first);
    auto data = must(store.commit_user_data(first));
    CHECK(std::string(data.begin(), data.end()) == "registers");
    CHECK(must(store.commit_user_data(second)).empty());
    vmstorepp::Stats stats = must(store.stats());
    CHECK(stats.commits == 2 && stats.mapped_modules == 1);
    must(store.verify());
}

void captures(const std::string &directory)
{
    Store store = must(Store::open(directory.c_str()));
    Module ram = must(store.map_module("ram", 0)); // size 0: as large as it was
    CHECK(ram.size() == SIZE && !std::strcmp(bytes(ram), "first"));

    std::strcpy(bytes(ram), "captured");
    Capture capture = must(store.capture());
    CHECK(store.commit().status() == VMSTORE_E_BUSY);
    std::strcpy(bytes(ram), "afterwards");
    std::uint64_t third = must(capture.commit());
    CHECK(third == 3 && !capture && capture.commit().status() == VMSTORE_E_HANDLE);

    capture = must(store.capture());
    must(capture.cancel());
    CHECK(!capture);
    { Capture dropped = must(store.capture()); } // its destructor cancels it; otherwise the next capture would be busy
    capture = must(store.capture());
    must(capture.cancel());

    must(store.restore(third));
    CHECK(!std::strcmp(bytes(ram), "captured"));
}

void callbacks(const std::string &directory)
{
    int lines = 0;
    auto log = [&lines](int level, const char *message) {
        lines += message[0] != '\0' && (level == VMSTORE_LOG_WARNING || level == VMSTORE_LOG_INFO);
    };
    vmstorepp::OpenOptions options;
    vmstorepp::log_to(options, log);
    Store store = must(Store::open(directory.c_str(), options));
    Module ram = must(store.map_module("ram", 0));
    std::printf("the log had %d lines\n", lines);

    int calls = 0;
    auto count = [&calls](std::uint64_t done, std::uint64_t total) {
        calls += done <= total;
    };
    must(store.restore(1, count));
    must(store.verify({}, count));
    CHECK(calls > 0);
    bytes(ram)[0] = 'F';
    must(store.commit());
    must(store.persist(count));

    auto stop = [](std::uint64_t, std::uint64_t) { return true; };
    CHECK(store.verify({}, stop).status() == VMSTORE_E_CANCELLED);
    auto go_on = [](std::uint64_t, std::uint64_t) { return false; };
    must(store.verify({}, go_on));

    // Callbacks in the options keep their user_data, also if another callback is passed separately.
    unsigned good = 0, reports = 0, also = 0;
    vmstorepp::VerifyOptions verify;
    verify.user_data = &good;
    verify.finding = [](const vmstorepp::Finding *found, void *user_data) {
        *static_cast<unsigned *>(user_data) += found->kind == VMSTORE_FINDING_GOOD;
        return 0;
    };
    must(store.verify(verify));
    auto commits = must(store.list_commits()).size();
    CHECK(good == commits);
    must(store.verify(verify, [&](std::uint64_t, std::uint64_t) { reports++; }));
    CHECK(good == 2 * commits && reports > 0);
    must(store.verify_all(verify, [&](const vmstorepp::Finding &) { also++; }));
    CHECK(good == 2 * commits && also == commits);
    auto enough = [](const vmstorepp::Finding &) { return true; };
    CHECK(store.verify_all({}, enough).status() == VMSTORE_E_CANCELLED);
    verify = {};
    verify.user_data = &reports;
    verify.progress = [](std::uint64_t, std::uint64_t, void *user_data) {
        ++*static_cast<unsigned *>(user_data);
        return 1;
    };
    auto before = reports;
    CHECK(store.verify(verify).status() == VMSTORE_E_CANCELLED && reports == before + 1);

    std::string found;
    must(store.list_modules(0, [&](const vmstorepp::ModuleInfo &info) {
        found += info.module_id;
        CHECK(info.size == SIZE && info.address == ram.address());
    }));
    CHECK(found == "ram");

#ifdef __cpp_exceptions
    try {
        (void)store.list_modules(0, [](const vmstorepp::ModuleInfo &) { throw 17; });
        CHECK(!"an exception came through");
    } catch (int thrown) {
        CHECK(thrown == 17);
    }
    must(store.head()); // the store still works
#endif
}

void failures(const std::string &directory)
{
    auto refused = Store::open((directory + "/no/such/parent").c_str());
    CHECK(!refused && refused.status() == VMSTORE_E_NOT_FOUND);
    CHECK(std::strstr(refused.error().what(), "no/such"));

    Store store = must(Store::open(directory.c_str()));
    CHECK(Store::open(directory.c_str()).status() == VMSTORE_E_LOCKED);
    CHECK(store.map_module("commits", SIZE).status() == VMSTORE_E_INVALID);
    CHECK(store.restore(999).status() == VMSTORE_E_NOT_FOUND);
    Module ram = must(store.map_module("ram", 0));
    CHECK(ram.mark_dirty(SIZE, 1).status() == VMSTORE_E_INVALID);
    CHECK(ram.fd().status() == VMSTORE_E_UNSUPPORTED);

#ifdef __cpp_exceptions
    CHECK(store.commit_info(1).value().commit == 1);
    try {
        store.restore(999).value();
        CHECK(!"value() threw");
    } catch (const vmstorepp::Error &error) {
        CHECK(error.status() == VMSTORE_E_NOT_FOUND && error.errno_value() >= 0);
        CHECK(std::strstr(error.what(), "999"));
    }
#endif

    // A handle that was moved from, or has ended, is a NULL handle. A handle whose store was closed is stale.
    Store moved = std::move(store);
    CHECK(!store && store.head().status() == VMSTORE_E_HANDLE && moved.head());
    must(moved.close());
    CHECK(moved.close().status() == VMSTORE_E_HANDLE);
    CHECK(ram && !ram.address() && ram.size() == 0);
    CHECK(ram.unmap().status() == VMSTORE_E_HANDLE);

    // Assigning closes the old store: if the first store were still open, opening the second would fail as locked.
    Store held = must(Store::open(directory.c_str()));
    held = Store(nullptr);
    held = must(Store::open(directory.c_str()));
    ::vmstore *raw = held.release();
    CHECK(store_close(raw) == VMSTORE_OK);
}

} // namespace

int main(int count, char **words)
{
    if (count != 2) {
        std::fprintf(stderr, "usage: %s DIRECTORY\n", words[0]);
        return 2;
    }
    std::string directory = std::string(words[1]) + "/raii.store";
    CHECK(vmstorepp::abi_matches() && std::strlen(vmstorepp::version()) > 0);
    CHECK(std::strlen(vmstorepp::strerror(VMSTORE_E_INVALID)) > 0);
    CHECK(must(vmstorepp::probe(words[1])).page_size > 0);

    commits_and_restores(directory);
    captures(directory);
    callbacks(directory);
    failures(directory);
    std::puts("raii: all held");
}
