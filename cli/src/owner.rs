//! Which process has a store open for writing. The library locks the store with a flock on its directory, and
//! /proc/locks lists this lock. To try the lock instead would keep a VMM from opening its store for a moment.

use std::fmt;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

/// A process that has a store open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, self.name.as_str()) {
            // /proc/locks shows 0 for a process in another pid namespace.
            (0, _) => write!(f, "a process in another container"),
            (pid, "") => write!(f, "process {pid}"),
            (pid, name) => write!(f, "process {pid} ({name})"),
        }
    }
}

/// The owner of a store. `None`: the store has no owner, or /proc/locks cannot be read.
pub(crate) fn of(directory: &Path) -> Option<Owner> {
    let found = std::fs::metadata(directory).ok()?;
    let (device, inode) = (found.st_dev(), found.st_ino());
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = pid_of(&locks, &file)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Owner {
        pid,
        name: crate::screen::printable(name.trim()),
    })
}

/// The process that holds a write lock on a file, from the text of /proc/locks. `file` is the file's device and
/// inode as that text has them.
fn pid_of(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, "WRITE", pid, at, ..] if at == file => pid.parse().ok(),
            _ => None,
        }
    })
}

// The same bits as gnu_dev_major and gnu_dev_minor of glibc.
fn major(device: u64) -> u64 {
    ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff)
}

fn minor(device: u64) -> u64 {
    (device & 0xff) | ((device >> 12) & !0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_write_lock_on_the_file_itself_counts() {
        let locks = "1: FLOCK  ADVISORY  READ 10 fe:00:77 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 14 fe:00:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 12 fe:00:778 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 13 fe:00:77 0 EOF\n";
        assert_eq!(pid_of(locks, "fe:00:77"), Some(13));
        assert_eq!(pid_of(locks, "fe:01:77"), None);
    }
}
