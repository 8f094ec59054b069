//! Facts about the host: page size, clocks, randomness, the file system under a path.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// The host's page size in bytes; a power of two.
pub(crate) fn page_size() -> u64 {
    // SAFETY: sysconf has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// Nanoseconds since 1970 by the wall clock; 0 if the clock is set to a time before 1970.
pub(crate) fn wall_clock() -> u64 {
    #[cfg(any(test, fuzzing))]
    if repeatable::next().is_some() {
        return 0;
    }
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}

/// Nanoseconds since an instant.
pub(crate) fn nanoseconds_since(start: Instant) -> u64 {
    start.elapsed().as_nanos() as u64
}

/// 128 random bits.
pub(crate) fn random_id() -> Result<[u8; 16]> {
    #[cfg(any(test, fuzzing))]
    if let Some(id) = repeatable::next() {
        return Ok(id);
    }
    let mut id = [0u8; 16];
    loop {
        // SAFETY: the buffer is ours and has the given length.
        let got = unsafe { libc::getrandom(id.as_mut_ptr().cast(), id.len(), 0) };
        if got == id.len() as isize {
            return Ok(id);
        }
        let error = std::io::Error::last_os_error();
        if got < 0 && error.raw_os_error() != Some(libc::EINTR) {
            return Err(Error::io("getrandom(16)", &error));
        }
    }
}

/// The host's memory in bytes. The first open asks the kernel. Later calls return the same number
/// without a system call.
pub(crate) fn memory() -> u64 {
    static MEMORY: OnceLock<u64> = OnceLock::new();
    *MEMORY.get_or_init(|| {
        // SAFETY: sysconf has no preconditions.
        let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
        u64::try_from(pages)
            .unwrap_or(0)
            .saturating_mul(page_size())
    })
}

/// How many huge pages of `size` bytes are free. `None`: the host has no huge pages of that size.
pub(crate) fn free_huge_pages(size: u64) -> Option<u64> {
    let path = format!(
        "/sys/kernel/mm/hugepages/hugepages-{}kB/free_hugepages",
        size >> 10
    );
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The soft limit on open descriptors of this process.
pub(crate) fn descriptor_limit() -> u64 {
    #[cfg(test)]
    if let Some(few) = repeatable::descriptors() {
        return few;
    }
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct is ours.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 256;
    }
    limit.rlim_cur
}

/// A file system: its name and the bytes that are free for this user.
pub(crate) struct FileSystem {
    pub(crate) name: String,
    pub(crate) free_bytes: u64,
}

pub(crate) fn file_system(path: &std::path::Path) -> Result<FileSystem> {
    use std::os::unix::ffi::OsStrExt;
    let text = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::invalid("directory", "it must not contain a NUL byte"))?;
    // SAFETY: all-zero is a value of this plain struct.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated and the struct is ours.
    if unsafe { libc::statfs(text.as_ptr(), &raw mut stat) } != 0 {
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENOENT) {
            return Err(Error::NotFound {
                what: format!("directory {}", path.display()),
                hint: "".into(),
            });
        }
        return Err(Error::io(format!("statfs({})", path.display()), &error));
    }
    let magic = stat.f_type as u64 & 0xffff_ffff;
    // Numbers of linux/magic.h.
    let name = match magic {
        0xef53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x0102_1994 => "tmpfs".into(),
        0x794c_7630 => "overlayfs".into(),
        0x6573_5546 => "fuse".into(),
        0x6969 => "nfs".into(),
        0x2fc1_2fc1 => "zfs".into(),
        0xf2f5_2010 => "f2fs".into(),
        other => format!("{other:#x}"),
    };
    Ok(FileSystem {
        name,
        free_bytes: stat.f_bavail.saturating_mul(stat.f_bsize as u64),
    })
}

/// Ids that are the same in every run of a test. A search through crash states must be repeatable
/// and must recognise equal states.
#[cfg(any(test, fuzzing))]
pub(crate) mod repeatable {
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<u64> = const { Cell::new(0) };
        #[cfg(test)]
        static DESCRIPTORS: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// From now on the descriptor limit of this thread is `few`.
    #[cfg(test)]
    pub(crate) fn limit_descriptors(few: u64) {
        DESCRIPTORS.set(Some(few));
    }

    #[cfg(test)]
    pub(super) fn descriptors() -> Option<u64> {
        DESCRIPTORS.get()
    }

    /// From now on the ids of this thread follow from `seed`, and the wall clock returns 0.
    pub(crate) fn begin(seed: u64) {
        COUNT.set(seed.max(1));
    }

    pub(super) fn next() -> Option<[u8; 16]> {
        let count = COUNT.get();
        (count != 0).then(|| {
            COUNT.set(count + 1);
            let id = u128::from(count).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            (id ^ id >> 61).to_le_bytes()
        })
    }
}
