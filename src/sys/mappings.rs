//! Which mappings a range of this process has, from /proc/self/maps. The library reads this file
//! before it takes over memory of its caller, and at no other time.

use std::io::{BufRead, BufReader};

use crate::{Error, Result};

/// One mapping, or the part of a mapping that lies inside the requested range.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the kernel reports these flags"
)]
pub(crate) struct Mapping {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) access: bool,
    pub(crate) writable: bool,
    pub(crate) shared: bool,
    /// The mapping is backed by a file, a memfd or huge pages.
    pub(crate) file: bool,
}

/// The mappings of a range, in order. Fails if a part of the range is not mapped.
pub(crate) fn of_range(address: usize, length: u64) -> Result<Vec<Mapping>> {
    const PATH: &str = "/proc/self/maps";
    let end = usize::try_from(length)
        .ok()
        .and_then(|length| address.checked_add(length))
        .ok_or_else(|| {
            Error::invalid(
                format!("{length} bytes at {address:#x}"),
                "the range must end within the address space",
            )
        })?;
    let file =
        std::fs::File::open(PATH).map_err(|error| Error::io(format!("open({PATH})"), &error))?;
    let mut found = Vec::new();
    let mut next = address;
    // A path need not be UTF-8.
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|error| Error::io(format!("read({PATH})"), &error))?;
        let Some(mut mapping) = parse(&String::from_utf8_lossy(&line)) else {
            continue;
        };
        if mapping.end <= address {
            continue;
        }
        if mapping.start > next || next >= end {
            break;
        }
        mapping.start = mapping.start.max(address);
        mapping.end = mapping.end.min(end);
        next = mapping.end;
        found.push(mapping);
    }
    if next < end {
        return Err(Error::invalid(
            format!("{length} bytes at {address:#x}"),
            format!("the whole range must be mapped, but nothing is mapped at {next:#x}"),
        ));
    }
    Ok(found)
}

/// `start-end perms offset major:minor inode path`
fn parse(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let access = words.next()?.as_bytes();
    let inode = words.nth(2)?;
    Some(Mapping {
        start: usize::from_str_radix(start, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
        access: access.iter().take(3).any(|byte| *byte != b'-'),
        writable: access.starts_with(b"rw"),
        shared: *access.get(3)? == b's',
        file: inode != "0",
    })
}

/// Checks that a range is a reservation of the caller: private anonymous memory without any access.
/// Mapping over such a range loses no data.
pub(crate) fn check_reservation(address: usize, length: u64) -> Result<()> {
    for mapping in of_range(address, length)? {
        if mapping.access || mapping.shared || mapping.file {
            return Err(Error::Exists {
                what: format!("{:#x} to {:#x}", mapping.start, mapping.end),
                why:
                    "it is in use; a reserved range must be private anonymous memory with PROT_NONE"
                        .into(),
            });
        }
    }
    Ok(())
}

/// The mappings of memory that the caller hands over. Fails unless all of it can be read and
/// written.
pub(crate) fn check_adopted(address: usize, length: u64) -> Result<Vec<Mapping>> {
    let mappings = of_range(address, length)?;
    match mappings.iter().find(|mapping| !mapping.writable) {
        None => Ok(mappings),
        Some(mapping) => Err(Error::invalid(
            format!("{length} bytes at {address:#x}"),
            format!(
                "adopted memory must be readable and writable, but {:#x} to {:#x} is not",
                mapping.start, mapping.end
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::{Backing, Memory, Spot};

    #[test]
    fn lines_are_read() {
        let line = "7f0000000000-7f0000002000 rw-s 00001000 00:01 2064      /memfd:ram (deleted)";
        let wanted = Mapping {
            start: 0x7f00_0000_0000,
            end: 0x7f00_0000_2000,
            access: true,
            writable: true,
            shared: true,
            file: true,
        };
        assert_eq!(parse(line), Some(wanted));
        let line = "7ffd10000000-7ffd10021000 ---p 00000000 00:00 0";
        let reserved = parse(line).unwrap();
        assert!(!reserved.access && !reserved.shared && !reserved.file);
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn names_of_mapped_files_may_be_any_bytes() {
        use std::ffi::OsStr;
        use std::os::{fd::AsRawFd, unix::ffi::OsStrExt};
        let page = crate::sys::host::page_size();
        let directory = tempfile::tempdir().unwrap();
        let name = OsStr::from_bytes(b"not \xff text");
        let file = std::fs::File::create_new(directory.path().join(name)).unwrap();
        file.set_len(page).unwrap();
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(directory.path().join(name))
            .unwrap();
        let memory = Memory::anonymous(2 * page).unwrap();
        let backing = Backing::Shared(file.as_raw_fd(), 0);
        memory.map(0, page, backing).unwrap();
        let mappings = check_adopted(memory.address(), 2 * page).unwrap();
        assert!(mappings[0].file && !mappings[1].file, "{mappings:?}");
    }

    #[test]
    fn a_reservation_is_not_adopted_memory() {
        let page = crate::sys::host::page_size();
        let memory = Memory::claim(Spot::Anywhere, 3 * page, 3 * page, 1).unwrap();
        let at = memory.address();
        check_reservation(at, 3 * page).unwrap();
        check_adopted(at, page).unwrap_err();
        memory.map(page, page, Backing::Anonymous).unwrap();
        let error = check_reservation(at, 3 * page).unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        check_reservation(at, page).unwrap();
        assert_eq!(
            check_adopted(at + page as usize, page).unwrap().len(),
            1,
            "one mapping"
        );
        check_adopted(at, 2 * page).unwrap_err();
        // Nothing is ever mapped so low (vm.mmap_min_addr).
        let error = check_reservation(page as usize, page).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("nothing is"), "{error}");
    }

    #[test]
    fn a_reservation_is_given_back() {
        let page = crate::sys::host::page_size();
        let outer = Memory::claim(Spot::Anywhere, 4 * page, 4 * page, 1).unwrap();
        let at = outer.address() + page as usize;
        let inner = Memory::claim(Spot::Reserved(at), page, page, 1).unwrap();
        inner.map(0, page, Backing::Anonymous).unwrap();
        inner.write(0, &[1, 2, 3]);
        inner.claim_behind(2 * page).unwrap();
        inner.map(page, page, Backing::Anonymous).unwrap();
        inner.grow(2 * page);
        inner.write(2 * page - 1, &[4]);
        outer.map(3 * page, page, Backing::Anonymous).unwrap();
        inner.claim_behind(3 * page).unwrap_err();
        drop(inner);
        check_reservation(outer.address(), 3 * page).unwrap();
    }
}
