// vmstore.hpp - vmstore for C++17: handles that end themselves, results that you must look at.
//
// A thin, header-only layer over vmstore.h. The text of vmstore.h is the manual for every call. Only the
// differences stand here. The namespace is `vmstorepp`, because a C++ namespace cannot share the name of
// the C type `vmstore`. Licence: MIT or Apache-2.0.
//
//     auto store = vmstorepp::Store::open("guest.store").value();
//     auto ram = store.map_module("ram", 64 << 20).value();
//     std::strcpy(static_cast<char *>(ram.address()), "hello");
//     std::uint64_t first = store.commit().value();             // throws vmstorepp::Error
//     if (auto done = store.persist(); !done)                   // or look for yourself
//         std::fprintf(stderr, "not durable: %s\n", done.error().what());
//
// Errors     Every call that can fail gives a Result<T>. Take `.value()`, which gives the T or throws an
//            Error; or test the result first, then take `*result` or `.error()`. An Error holds the text of
//            store_last_error, the status and the errno. With -fno-exceptions there is no `.value()`.
// Handles    Store, Module and Capture are move-only. Their destructors close the store, unmap the module
//            (stop the guest first) or cancel the capture, and ignore failure. close(), unmap() and cancel()
//            report failure. A moved-from or ended handle is NULL: calls on it give VMSTORE_E_HANDLE. Any
//            order of destruction is safe: the handles of a closed store are stale, and never dangle.
// Options    CommitOptions and the like are the C structs, zeroed and with struct_size set. Their fields
//            count as in C, callbacks too. A C++ progress callback replaces the field `progress`.
// Callbacks  Any callable, by reference, without std::function. A callable that returns void never stops
//            the work. A callable that returns a value stops the work if the value is true, as non-zero does
//            in C. An exception from it stops the work and comes out of the call that you made.
// Threads    As in C. No thread may move or end an object while another thread uses it.
#ifndef VMSTORE_HPP
#define VMSTORE_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "vmstore.h"

namespace vmstorepp {

/// A struct of vmstore.h that begins with struct_size: zeroed, with the size filled in.
template <class Struct> struct Sized : Struct {
    Sized() noexcept : Struct{} { this->struct_size = sizeof(Struct); }
};
using OpenOptions = Sized<::vmstore_open_options>;
using MapOptions = Sized<::vmstore_map_options>;
using CommitOptions = Sized<::vmstore_commit_options>;
using PersistOptions = Sized<::vmstore_persist_options>;
using PrecopyOptions = Sized<::vmstore_precopy_options>;
using TransferOptions = Sized<::vmstore_transfer_options>;
using RestoreOptions = Sized<::vmstore_restore_options>;
using CompactOptions = Sized<::vmstore_compact_options>;
using VerifyOptions = Sized<::vmstore_verify_options>;
using Stats = Sized<::vmstore_stats>;
using CommitInfo = Sized<::vmstore_commit_info>;
using Capabilities = Sized<::vmstore_capabilities>;
using ModuleInfo = ::vmstore_module_info;
using FileInfo = ::vmstore_file_info;
using Finding = ::vmstore_finding;

/// The version of the library that runs; whether this header fits it; the meaning of numbers.
inline const char *version() noexcept { return store_version(); }
inline bool abi_matches() noexcept { return store_abi_version() == VMSTORE_ABI_VERSION; }
inline const char *strerror(int status) noexcept { return store_strerror(status); }
inline const char *mode_name(std::uint32_t mode) noexcept { return store_mode_name(mode); }
inline const char *tracker_name(std::uint32_t number) noexcept { return store_tracker_name(number); }

/// The text of this thread's last failure; an Error has it already.
inline std::string last_error()
{
    char text[1024] = "";
    store_last_error(text, sizeof text);
    return text;
}

/// The failure of this thread's last call. Make the object right after the call.
class Error : public std::runtime_error {
public:
    explicit Error(int status)
        : runtime_error(last_error()), status_(status), errno_(store_last_errno()) {}
    int status() const noexcept { return status_; }     ///< VMSTORE_E_...
    int errno_value() const noexcept { return errno_; } ///< 0: no system call failed
private:
    int status_, errno_;
};

/// What a call gave: a T or an Error.
template <class T> class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
    explicit operator bool() const noexcept { return state_.index() == 0; }
    int status() const noexcept { return *this ? VMSTORE_OK : error().status(); }
    /// The value of a successful call, and the error of a failed call. Test the result first.
    T &operator*() & noexcept { return *std::get_if<0>(&state_); }
    T &&operator*() && noexcept { return std::move(*std::get_if<0>(&state_)); }
    T *operator->() noexcept { return std::get_if<0>(&state_); }
    const Error &error() const noexcept { return *std::get_if<1>(&state_); }

#ifdef __cpp_exceptions
    /// The value of a successful call. Throws the Error of a failed call.
    T &value() & { return *this ? **this : throw error(); }
    T value() && { return std::move(value()); }
#endif
private:
    std::variant<T, Error> state_;
};
/// The result of a call that gives no value.
using Done = Result<std::monostate>;

namespace detail {

inline Done done(int status)
{ return status == VMSTORE_OK ? Done(std::monostate{}) : Done(Error(status)); }

/// Calls a C function whose last argument is an out parameter, and makes a T from its output.
template <class T, class Out = T, class Function, class... Arguments>
Result<T> output(Function function, Arguments... arguments)
{
    Out out{};
    int status = function(arguments..., &out);
    if (status != VMSTORE_OK) return Error(status);
    return T(std::move(out));
}

/// Calls a C function that fills a buffer and gives the whole length, until everything fits.
template <class Item, class Function, class... Arguments>
Result<std::vector<Item>> list(Function function, Arguments... arguments)
{
    std::vector<Item> items;
    for (std::size_t count = 0;; items.resize(count)) {
        int status = function(arguments..., items.data(), items.size(), &count);
        if (status != VMSTORE_OK) return Error(status);
        if (count <= items.size()) return items.resize(count), std::move(items);
    }
}

/// A callable that C calls. No exception may pass through C: it is stored, and thrown afterwards.
template <class Function> struct Callback {
    Function &function;
    std::exception_ptr thrown;

    static int progress(std::uint64_t finished, std::uint64_t total, void *self) noexcept
    { return static_cast<Callback *>(self)->call(finished, total); }
    static int module(const ModuleInfo *info, void *self) noexcept
    { return static_cast<Callback *>(self)->call(*info); }
    static int file(const FileInfo *info, void *self) noexcept
    { return static_cast<Callback *>(self)->call(*info); }
    static int finding(const Finding *found, void *self) noexcept
    { return static_cast<Callback *>(self)->call(*found); }
    static int range(const char *id, std::uint64_t offset, std::uint64_t length, void *self) noexcept
    { return static_cast<Callback *>(self)->call(id, offset, length); }
    Done finish(int status)
    {
#ifdef __cpp_exceptions
        if (thrown) std::rethrow_exception(thrown);
#endif
        return done(status);
    }

    template <class... Arguments> int call(const Arguments &...arguments) noexcept
    {
#ifdef __cpp_exceptions
        try {
#endif
            if constexpr (std::is_void_v<std::invoke_result_t<Function &, const Arguments &...>>)
                return function(arguments...), 0;
            else
                return function(arguments...) ? 1 : 0;
#ifdef __cpp_exceptions
        } catch (...) {
            thrown = std::current_exception();
            return 1;
        }
#endif
    }
};

/// Stands for no progress callback: the options stay as they are.
struct Silent { void operator()(std::uint64_t, std::uint64_t) const noexcept {} };
template <class Progress> constexpr bool is_silent = std::is_same_v<std::decay_t<Progress>, Silent>;

/// Two callbacks that share one user_data. Their arguments tell which of them is called.
template <class Progress, class Hear> struct Both {
    Progress &progress;
    Hear &hear;
    auto operator()(std::uint64_t finished, std::uint64_t total) { return progress(finished, total); }
    auto operator()(const Finding &found) { return hear(found); }
};

/// Calls a C function whose last argument is an options struct with a progress callback.
template <class Options, class Progress, class Function, class... Arguments>
Done with_progress(Options options, Progress &progress, Function function, Arguments... arguments)
{
    if constexpr (is_silent<Progress>) return done(function(arguments..., &options));
    Callback<Progress> callback{progress, nullptr};
    options.progress = &Callback<Progress>::progress;
    options.user_data = &callback;
    return callback.finish(function(arguments..., &options));
}

/// The only owner of a C handle. `End` ends the handle.
template <class Opaque, int (*End)(Opaque *)> class Handle {
public:
    explicit Handle(Opaque *owned) noexcept : handle_(owned) {}
    Handle(Handle &&other) noexcept : handle_(other.release()) {}
    Handle &operator=(Handle &&other) noexcept
    {
        Handle taken(std::move(other)); // and ends what was held here
        std::swap(handle_, taken.handle_);
        return *this;
    }
    ~Handle() { if (handle_) End(handle_); }

    Opaque *get() const noexcept { return handle_; } ///< for calls in C; still owned here
    Opaque *release() noexcept { return std::exchange(handle_, nullptr); }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

protected:
    Done end()
    {
        int status = End(handle_);
        if (status == VMSTORE_OK) release();
        return done(status);
    }
private:
    Opaque *handle_;
};

} // namespace detail

/// Sends the log to `log(level, message)`, which must not throw and must outlive the store.
template <class Function> void log_to(OpenOptions &options, Function &log) noexcept
{
    options.log = [](int level, const char *message, void *function) noexcept
    { (*static_cast<Function *>(function))(level, message); };
    options.user_data = const_cast<std::remove_const_t<Function> *>(&log);
}

/// What this kernel, and the file system of `directory` if there is one, can do.
inline Result<Capabilities> probe(const char *directory = nullptr)
{ return detail::output<Capabilities>(store_probe, directory); }

class Module : public detail::Handle<::vmstore_module, store_unmap_module> {
public:
    using Handle::Handle;
    using Descriptor = std::pair<int, std::uint64_t>; ///< (fd, offset of the module's first byte)

    void *address() const noexcept { return store_module_address(get()); }
    std::uint64_t size() const noexcept { return store_module_size(get()); }
    Done unmap() { return end(); }
    Done grow(std::uint64_t new_size) { return detail::done(store_grow_module(get(), new_size)); }
    Done mark_dirty(std::uint64_t offset, std::uint64_t length)
    { return detail::done(store_mark_dirty(get(), offset, length)); }
    Done import_dirty_bitmap(std::uint64_t at, const std::uint64_t *bitmap, std::uint64_t pages)
    { return detail::done(store_import_dirty_bitmap(get(), at, bitmap, pages)); }
    Done discard(std::uint64_t offset, std::uint64_t length)
    { return detail::done(store_discard(get(), offset, length)); }
    Result<Descriptor> fd() const
    {
        int fd = -1;
        auto offset = detail::output<std::uint64_t>(store_module_fd, get(), &fd);
        if (!offset) return offset.error();
        return Descriptor(fd, *offset);
    }
};

class Capture : public detail::Handle<::vmstore_capture, store_capture_cancel> {
public:
    using Handle::Handle;
    Done cancel() { return end(); }
    /// After a failure the handle may be stale; the destructor accepts this.
    Result<std::uint64_t> commit()
    {
        auto made = detail::output<std::uint64_t>(store_capture_commit, get());
        if (made) release();
        return made;
    }
};

class Store : public detail::Handle<::vmstore, store_close> {
public:
    using Handle::Handle;
    static Result<Store> open(const char *directory, const OpenOptions &options = {})
    { return detail::output<Store, ::vmstore *>(store_open, directory, &options); }
    Done close() { return end(); }
    Result<Module> map_module(const char *id, std::uint64_t size, const MapOptions &map = {})
    { return detail::output<Module, ::vmstore_module *>(store_map_module, get(), id, size, &map); }

    Result<std::uint64_t> commit(const CommitOptions &options = {})
    { return detail::output<std::uint64_t>(store_commit, get(), &options); }
    Result<Capture> capture(const CommitOptions &options = {})
    { return detail::output<Capture, ::vmstore_capture *>(store_capture, get(), &options); }

    Result<std::uint64_t> audit()
    { return detail::output<std::uint64_t>(store_audit, get()); }

    /// Gives the number of pages that a capture would have to copy now. The last argument, here and
    /// in the three functions that follow, is the progress callback: progress(done, total).
    template <class Progress = detail::Silent>
    Result<std::uint64_t> precopy(const PrecopyOptions &options = {}, Progress &&progress = {})
    {
        std::uint64_t left = 0;
        auto function = [](::vmstore *store, std::uint64_t *out, const PrecopyOptions *with)
        { return store_precopy(store, with, out); };
        Done done = detail::with_progress(options, progress, function, get(), &left);
        if (!done) return done.error();
        return left;
    }
    template <class Progress = detail::Silent> Done persist(Progress &&progress = {})
    { return detail::with_progress(PersistOptions(), progress, store_persist, get()); }
    template <class Progress = detail::Silent>
    Done restore(std::uint64_t commit, Progress &&progress = {})
    { return detail::with_progress(RestoreOptions(), progress, store_restore, get(), commit); }
    template <class Progress = detail::Silent>
    Done verify(const VerifyOptions &options = {}, Progress &&progress = {}) const
    {
        if (detail::is_silent<Progress> || !options.finding)
            return detail::with_progress(options, progress, store_verify, get());
        auto hear = [&](const Finding &found) { return options.finding(&found, options.user_data); };
        return verify_all(options, hear, progress);
    }
    /// Calls hear(const Finding &) for everything that is found, and goes on to the end.
    template <class Hear, class Progress = detail::Silent>
    Done verify_all(VerifyOptions options, Hear &&hear, Progress &&progress = {}) const
    {
        detail::Both<std::remove_reference_t<Progress>, std::remove_reference_t<Hear>> both{progress, hear};
        detail::Callback<decltype(both)> call{both, nullptr};
        options.progress = &decltype(call)::progress;
        options.finding = &decltype(call)::finding;
        options.user_data = &call;
        return call.finish(store_verify(get(), &options));
    }

    template <class Progress = detail::Silent>
    Done compact(const CompactOptions &options = {}, Progress &&progress = {})
    { return detail::with_progress(options, progress, store_compact, get()); }
    Done delete_commit(std::uint64_t commit)
    { return detail::done(store_delete_commit(get(), commit)); }

    Result<Stats> stats() const { return detail::output<Stats>(store_stats, get()); }
    Result<std::uint64_t> head() const { return detail::output<std::uint64_t>(store_head, get()); }
    Result<CommitInfo> commit_info(std::uint64_t commit) const
    { return detail::output<CommitInfo>(store_commit_info, get(), commit); }
    Result<std::uint64_t> find_commit(const char *label) const
    { return detail::output<std::uint64_t>(store_find_commit, get(), label); }
    Result<std::vector<std::uint64_t>> list_commits() const
    { return detail::list<std::uint64_t>(store_list_commits, get()); }
    Result<std::vector<unsigned char>> commit_user_data(std::uint64_t commit) const
    { return detail::list<unsigned char>(store_commit_user_data, get(), commit); }
    /// `from` 0: all ancestors of `to`.
    Done export_to(std::uint64_t from, std::uint64_t to, int fd) const
    { return detail::done(store_export(get(), from, to, fd)); }
    template <class Progress>
    Done export_to(std::uint64_t from, std::uint64_t to, int fd, Progress &&progress) const
    { return detail::with_progress(TransferOptions(), progress, store_export_with, get(), from, to, fd); }
    Result<std::uint64_t> import_from(int fd)
    { return detail::output<std::uint64_t>(store_import, get(), fd); }
    template <class Progress> Result<std::uint64_t> import_from(int fd, Progress &&progress)
    {
        std::uint64_t commit = 0;
        auto function = [](::vmstore *store, int from, std::uint64_t *out, const TransferOptions *with)
        { return store_import_with(store, from, with, out); };
        Done done = detail::with_progress(TransferOptions(), progress, function, get(), fd, &commit);
        if (!done) return done.error();
        return commit;
    }
    /// `commit` 0: the whole history.
    Done clone(std::uint64_t commit, const char *directory) const
    { return detail::done(store_clone(get(), commit, directory)); }
    /// Calls callback(module_id, offset, length) for each range; `id` NULL: of all modules.
    template <class Function>
    Done diff(std::uint64_t from, std::uint64_t to, const char *id, Function &&callback) const
    {
        detail::Callback<std::remove_reference_t<Function>> call{callback, nullptr};
        return call.finish(store_diff(get(), from, to, id, &decltype(call)::range, &call));
    }
    Done read(std::uint64_t commit, const char *id, std::uint64_t offset, void *buffer, std::size_t length) const
    { return detail::done(store_read(get(), commit, id, offset, buffer, length)); }
    /// Calls callback(const FileInfo &) for each file that a commit needs.
    template <class Function> Done list_files(std::uint64_t commit, Function &&callback) const
    {
        detail::Callback<std::remove_reference_t<Function>> call{callback, nullptr};
        return call.finish(store_list_files(get(), commit, &decltype(call)::file, &call));
    }
    /// Calls callback(const ModuleInfo &) for each module.
    template <class Function> Done list_modules(std::uint64_t commit, Function &&callback) const
    {
        detail::Callback<std::remove_reference_t<Function>> call{callback, nullptr};
        return call.finish(store_list_modules(get(), commit, &decltype(call)::module, &call));
    }
};

} // namespace vmstorepp

#endif // VMSTORE_HPP
