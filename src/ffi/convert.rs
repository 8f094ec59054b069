//! Arguments from C and results to C: every pointer of the caller's is read or written here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;

use super::types::{
    VMSTORE_FINDING_DAMAGE, VMSTORE_FINDING_GOOD, VMSTORE_FINDING_LOST, VMSTORE_LOG_INFO,
    VMSTORE_LOG_WARNING, VMSTORE_NO_PAGE, vmstore_capabilities, vmstore_commit_info,
    vmstore_commit_options, vmstore_compact_options, vmstore_finding, vmstore_finding_callback,
    vmstore_log_callback, vmstore_map_options, vmstore_module_info, vmstore_open_options,
    vmstore_persist_options, vmstore_precopy_options, vmstore_progress_callback,
    vmstore_restore_options, vmstore_stats, vmstore_transfer_options, vmstore_verify_options,
};
use crate::{
    Capabilities, CommitInfo, CommitOptions, Error, Finding, Log, LogLevel, ModuleInfo, Result,
    Stats,
};

/// A `struct_size` beyond this is taken for an uninitialised one.
const MAX_STRUCT: usize = 4096;

/// A struct that begins with `size_t struct_size` and for which all-zero bytes are a value.
///
/// # Safety
/// The type is `repr(C)`, begins with that field, and has no bit pattern that is not a value.
pub(super) unsafe trait In: Copy {
    /// Reads the caller's struct: NULL gives zeros, a shorter one is extended with zeros, a
    /// longer one is accepted when what this library does not know is zero.
    ///
    /// # Safety `pointer` is NULL or points to at least `struct_size` readable bytes that begin
    /// with that size.
    unsafe fn read(name: &'static str, pointer: *const Self) -> Result<Self> {
        // SAFETY: all-zero is a value of the type, by the trait's contract.
        let mut value: Self = unsafe { std::mem::zeroed() };
        if pointer.is_null() {
            return Ok(value);
        }
        // SAFETY: the caller of this function vouches for the pointer.
        let size = unsafe { struct_size(name, pointer) }?;
        // SAFETY: both sides have at least this many bytes; the copy is bytewise and every
        // pattern is a value.
        unsafe {
            std::ptr::copy_nonoverlapping(
                pointer.cast::<u8>(),
                (&raw mut value).cast::<u8>(),
                size.min(size_of::<Self>()),
            );
        }
        Ok(value)
    }
}

// SAFETY: repr(C), struct_size first; integers, raw pointers and nullable function pointers.
unsafe impl In for vmstore_open_options {}
// SAFETY: as above.
unsafe impl In for vmstore_map_options {}
// SAFETY: as above.
unsafe impl In for vmstore_commit_options {}
// SAFETY: as above.
unsafe impl In for vmstore_persist_options {}
// SAFETY: as above.
unsafe impl In for vmstore_transfer_options {}
// SAFETY: as above.
unsafe impl In for vmstore_restore_options {}
// SAFETY: as above.
unsafe impl In for vmstore_verify_options {}
// SAFETY: as above.
unsafe impl In for vmstore_compact_options {}
// SAFETY: as above.
unsafe impl In for vmstore_precopy_options {}

/// Reads and checks a caller's `struct_size`, and that a longer struct's unknown tail is zero.
unsafe fn struct_size<T>(name: &'static str, pointer: *const T) -> Result<usize> {
    if !pointer.is_aligned() {
        return Err(Error::invalid(
            name,
            "the struct must be aligned for its type",
        ));
    }
    // SAFETY: the caller vouches for a struct that begins with its size, and it is aligned.
    let size = unsafe { pointer.cast::<usize>().read() };
    if !(size_of::<usize>()..=MAX_STRUCT).contains(&size) {
        return Err(Error::invalid(
            format!("{name}.struct_size {size}"),
            format!(
                "it must be sizeof({name}), which is {} here",
                size_of::<T>()
            ),
        ));
    }
    for offset in size_of::<T>()..size {
        // SAFETY: below `struct_size`, so readable by the caller's contract.
        if unsafe { pointer.cast::<u8>().add(offset).read() } != 0 {
            return Err(Error::invalid(
                format!("{name}.struct_size {size}"),
                format!(
                    "the library knows {} bytes, and those after it are not zero",
                    size_of::<T>()
                ),
            ));
        }
    }
    Ok(size)
}

/// Fills a caller's info struct, as much of it as its `struct_size` covers; the size itself is
/// left as it was.
///
/// # Safety `pointer` is NULL or points to at least `struct_size` writable bytes that begin
/// with that size.
pub(super) unsafe fn fill<T>(
    name: &'static str,
    pointer: *mut T,
    value: impl FnOnce() -> Result<T>,
) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::invalid(name, "it must not be NULL"));
    }
    // SAFETY: not NULL; the caller vouches for the rest.
    let size = unsafe { struct_size(name, pointer) }?;
    let value = value()?;
    let first = size_of::<usize>();
    // SAFETY: both sides have `size.min(size_of::<T>())` bytes; the size field is skipped on
    // both.
    unsafe {
        std::ptr::copy_nonoverlapping(
            (&raw const value).cast::<u8>().add(first),
            pointer.cast::<u8>().add(first),
            size.min(size_of::<T>()) - first,
        );
    }
    Ok(())
}

/// An out parameter, checked before the work and written after it.
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// `pointer` is NULL or valid for writing a `T` until [`Out::write`].
    pub(super) unsafe fn new(name: &'static str, pointer: *mut T) -> Result<Self> {
        if pointer.is_null() {
            return Err(Error::invalid(name, "it must not be NULL"));
        }
        Ok(Self(pointer))
    }

    pub(super) fn write(self, value: T) {
        // SAFETY: `new`'s caller vouches for it; unaligned places are the caller's right in
        // packed structs.
        unsafe { self.0.write_unaligned(value) }
    }
}

/// Room for several values, of the caller's.
pub(super) struct Room<T>(*mut T, usize);

/// # Safety
/// `pointer` is NULL or valid for writing `capacity` values until [`Room::write`].
pub(super) unsafe fn room<T: Copy>(
    name: &'static str,
    pointer: *mut T,
    capacity: usize,
) -> Result<Room<T>> {
    if pointer.is_null() && capacity != 0 {
        return Err(Error::invalid(
            name,
            "it must not be NULL when its capacity is not 0",
        ));
    }
    Ok(Room(pointer, capacity))
}

impl<T: Copy> Room<T> {
    /// Writes as many of `values` as fit.
    pub(super) fn write(self, values: &[T]) {
        for (index, value) in values.iter().take(self.1).enumerate() {
            // SAFETY: index < capacity, for which `room`'s caller vouches.
            unsafe { self.0.add(index).write_unaligned(*value) };
        }
    }
}

impl Room<u8> {
    /// Fills it with zeros.
    pub(super) fn zero(&self) {
        if self.1 != 0 {
            // SAFETY: not NULL, as `room` checked, and its caller vouches for the bytes.
            unsafe { self.0.write_bytes(0, self.1) };
        }
    }

    /// Writes bytes from `at` on, as many as fit.
    pub(super) fn put(&self, at: usize, bytes: &[u8]) {
        let length = bytes.len().min(self.1.saturating_sub(at));
        if length != 0 {
            // SAFETY: at + length <= capacity, for which `room`'s caller vouches; the bytes are the
            // library's own buffer.
            unsafe {
                self.0
                    .add(at)
                    .copy_from_nonoverlapping(bytes.as_ptr(), length);
            };
        }
    }
}

/// The words of a bitmap, in order.
///
/// # Safety
/// `pointer` is NULL or has `count` readable words until the result is dropped.
pub(super) unsafe fn words(
    name: &'static str,
    pointer: *const u64,
    count: u64,
) -> Result<impl Iterator<Item = u64>> {
    if pointer.is_null() && count != 0 {
        return Err(Error::invalid(name, "it must not be NULL"));
    }
    // SAFETY: index < count, for which this function's caller vouches; any alignment will do.
    Ok((0..count).map(move |index| unsafe { pointer.add(index as usize).read_unaligned() }))
}

/// A string argument.
///
/// # Safety
/// `pointer` is NULL or a NUL-terminated string that outlives the result.
pub(super) unsafe fn text<'a>(name: &'static str, pointer: *const c_char) -> Result<&'a CStr> {
    if pointer.is_null() {
        return Err(Error::invalid(name, "it must not be NULL"));
    }
    // SAFETY: not NULL, so NUL-terminated by the caller's contract.
    Ok(unsafe { CStr::from_ptr(pointer) })
}

pub(super) fn flags(name: &'static str, given: u32, known: u32) -> Result<()> {
    let unknown = given & !known;
    if unknown != 0 {
        return Err(Error::invalid(
            name,
            format!("unknown flag bits {unknown:#x}"),
        ));
    }
    Ok(())
}

pub(super) fn zero(name: &'static str, given: u32) -> Result<()> {
    if given != 0 {
        return Err(Error::invalid(name, "it must be 0"));
    }
    Ok(())
}

/// # Safety
/// `label` is NULL or NUL-terminated; `user_data` has `user_data_length` readable bytes.
pub(super) unsafe fn commit_options(options: &vmstore_commit_options) -> Result<CommitOptions> {
    let label = if options.label.is_null() {
        String::new()
    } else {
        // SAFETY: not NULL, so NUL-terminated by this function's contract.
        let label = unsafe { text("vmstore_commit_options.label", options.label) }?;
        label
            .to_str()
            .map_err(|_| Error::invalid("vmstore_commit_options.label", "it must be UTF-8"))?
            .to_owned()
    };
    zero("vmstore_commit_options.reserved", options.reserved)?;
    let length = options.user_data_length;
    if options.user_data.is_null() && length != 0 {
        return Err(Error::invalid(
            "vmstore_commit_options.user_data",
            "it must not be NULL when user_data_length is not 0",
        ));
    }
    CommitOptions::check_user_data_length(length)?;
    let mut user_data = Vec::new();
    user_data
        .try_reserve_exact(length)
        .map_err(|_| Error::NoMemory {
            what: "a copy of user_data".into(),
        })?;
    if length != 0 {
        // SAFETY: `user_data` is not NULL and has `length` readable bytes, by this function's
        // contract.
        user_data.extend_from_slice(unsafe {
            std::slice::from_raw_parts(options.user_data.cast::<u8>(), length)
        });
    }
    Ok(CommitOptions {
        label,
        user_data: (length != 0).then(|| Arc::new(user_data)),
        helpers: options.helpers,
    })
}

/// A pointer that is the caller's business alone; the library only hands it back.
struct UserData(*mut c_void);
// SAFETY: it is never dereferenced here; what the callback does with it on another thread is the
// caller's contract.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

fn level_of(level: LogLevel) -> c_int {
    match level {
        LogLevel::Warning => VMSTORE_LOG_WARNING,
        LogLevel::Info => VMSTORE_LOG_INFO,
    }
}

pub(super) fn log(callback: vmstore_log_callback, user_data: *mut c_void) -> Option<Log> {
    let callback = callback?;
    let user_data = UserData(user_data);
    Some(Box::new(move |level: LogLevel, message: &str| {
        let user_data = &user_data;
        let text = CString::new(message.replace('\0', "?")).unwrap_or_default();
        // SAFETY: the callback is the caller's, made for exactly this; the text lives until it
        // returns.
        unsafe { callback(level_of(level), text.as_ptr(), user_data.0) };
    }))
}

pub(super) fn progress(
    callback: vmstore_progress_callback,
    user_data: *mut c_void,
) -> Option<impl FnMut(u64, u64) -> bool> {
    let callback = callback?;
    // SAFETY: the callback is the caller's, made for exactly this.
    Some(move |done, total| unsafe { callback(done, total, user_data) } == 0)
}

pub(super) fn finding(
    callback: vmstore_finding_callback,
    user_data: *mut c_void,
) -> Option<impl FnMut(&Finding<'_>) -> bool> {
    let callback = callback?;
    Some(move |finding: &Finding<'_>| {
        let (kind, commit, page, texts) = match finding {
            Finding::Damage {
                file,
                module,
                commit,
                page,
                error,
            } => {
                let texts = [*file, *module, &error.to_string()].map(CString::new);
                let page = page.unwrap_or(VMSTORE_NO_PAGE);
                (VMSTORE_FINDING_DAMAGE, *commit, page, texts)
            }
            Finding::Good(commit) | Finding::Lost(commit) => {
                let kind = match finding {
                    Finding::Good(_) => VMSTORE_FINDING_GOOD,
                    _ => VMSTORE_FINDING_LOST,
                };
                (kind, *commit, VMSTORE_NO_PAGE, [""; 3].map(CString::new))
            }
        };
        let [file, module, message] = texts.map(std::result::Result::unwrap_or_default);
        let finding = vmstore_finding {
            struct_size: size_of::<vmstore_finding>(),
            kind,
            reserved: 0,
            commit,
            page,
            file: file.as_ptr(),
            module_id: module.as_ptr(),
            message: message.as_ptr(),
        };
        // SAFETY: the callback is the caller's, made for exactly this; the struct and its strings
        // live until it returns.
        unsafe { callback(&raw const finding, user_data) == 0 }
    })
}

/// Copies text into a fixed field, cut at a character boundary, always NUL-terminated.
fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (to, from) in field.iter_mut().zip(text.as_bytes()[..end].iter()) {
        *to = *from as c_char;
    }
    field
}

impl From<CommitInfo> for vmstore_commit_info {
    fn from(info: CommitInfo) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            commit: info.commit,
            parent: info.parent,
            time: info.time,
            unique_id: info.unique_id,
            label: fixed(&info.label),
            user_data_length: info.user_data.len() as u64,
            modules: info.modules,
            persisted: u32::from(info.persisted),
        }
    }
}

impl vmstore_module_info {
    pub(super) fn describe(
        module: &ModuleInfo,
        id: &CStr,
        tracker_reason: &CStr,
        mode_reason: &CStr,
    ) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            module_id: id.as_ptr(),
            size: module.size,
            module_commit: module.module_commit,
            digest: module.digest,
            address: module.address as *mut c_void,
            mode: module.mode.map_or(0, |mode| mode as u32),
            tracker: module.tracker.map_or(0, |tracker| tracker as u32),
            tracker_reason: tracker_reason.as_ptr(),
            unverified_bytes: module.unverified_bytes,
            mode_reason: mode_reason.as_ptr(),
            mapped_size: module.mapped_size,
            fell_back: u32::from(module.fell_back),
            compared: u32::from(module.compares),
        }
    }
}

impl From<Stats> for vmstore_stats {
    fn from(s: Stats) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            commits: s.commits,
            unpersisted_commits: s.unpersisted_commits,
            mapped_modules: s.mapped_modules,
            mapped_bytes: s.mapped_bytes,
            page_size: s.page_size,
            arena_bytes: s.arena_bytes,
            captures: s.captures,
            last_dirty_pages: s.last_dirty_pages,
            last_precopied_pages: s.last_precopied_pages,
            last_copied_pages: s.last_copied_pages,
            last_scan_ns: s.last_scan_ns,
            last_capture_ns: s.last_capture_ns,
            last_write_ns: s.last_write_ns,
            last_written_pages: s.last_written_pages,
            last_zero_pages: s.last_zero_pages,
            last_unchanged_pages: s.last_unchanged_pages,
            last_restored_pages: s.last_restored_pages,
            last_restore_ns: s.last_restore_ns,
            bytes_written: s.bytes_written,
            syncs: s.syncs,
            arena_spills: s.arena_spills,
            compared_modules: s.compared_modules,
            fallbacks: s.fallbacks,
            poisoned: u32::from(s.poisoned),
            read_only: u32::from(s.read_only),
        }
    }
}

impl From<Capabilities> for vmstore_capabilities {
    fn from(c: Capabilities) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            kernel_tracker: u32::from(c.kernel_tracker),
            auto_tracker: c.auto_tracker as u32,
            tracker_reason: fixed(&c.tracker_reason),
            page_size: c.page_size,
            file_system: fixed(&c.file_system),
            free_bytes: c.free_bytes,
            shared_is_safe: u32::from(c.shared_is_safe),
            is_store: u32::from(c.is_store),
            memfd: u32::from(c.memfd),
            has_huge_2m: u32::from(c.huge_2m.is_some()),
            free_huge_2m: c.huge_2m.unwrap_or(0),
            free_huge_1g: c.huge_1g.unwrap_or(0),
        }
    }
}
