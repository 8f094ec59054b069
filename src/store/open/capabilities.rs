//! The probe: what a host and a file system can do.

use std::path::Path;

use super::identity::read_identity;
use crate::dirty::{KernelTracker, Tracker};
use crate::store::options::Capabilities;
use crate::sys::realfs::{self, FoundDirectory};
use crate::sys::{host, memfd};
use crate::{Error, Result};

/// Finds out what this host and the file system of `directory` can do, and which tracker the
/// library would choose; see `store_probe`. Changes nothing. `directory` need not be a store.
/// `None`: leaves the file system out.
///
/// # Errors
/// [`Error::NotFound`]: there is no such directory. [`Error::Exists`]: it is not a directory.
/// [`Error::Io`].
pub fn probe(directory: Option<&Path>) -> Result<Capabilities> {
    let kernel = KernelTracker::open();
    let mut capabilities = Capabilities {
        kernel_tracker: kernel.is_ok(),
        auto_tracker: if kernel.is_ok() {
            Tracker::Kernel
        } else {
            Tracker::Compare
        },
        tracker_reason: match &kernel {
            Ok(_) => "its self-test passed".into(),
            Err(error) => error.to_string(),
        },
        page_size: host::page_size(),
        file_system: String::new(),
        free_bytes: 0,
        shared_is_safe: false,
        is_store: false,
        memfd: memfd::create("vmstore-probe", 0, 0).is_ok(),
        huge_2m: host::free_huge_pages(2 << 20),
        huge_1g: host::free_huge_pages(1 << 30),
    };
    if let Some(directory) = directory {
        let found = match realfs::find(directory) {
            Ok(FoundDirectory::Nothing) => {
                return Err(Error::NotFound {
                    what: format!("directory {}", directory.display()),
                    hint: "".into(),
                });
            }
            Err(error) if !matches!(error, Error::Corrupt { .. }) => return Err(error),
            found => found,
        };
        let system = host::file_system(directory)?;
        capabilities.shared_is_safe = ["ext4", "xfs", "tmpfs"].contains(&system.name.as_str());
        capabilities.file_system = system.name;
        capabilities.free_bytes = system.free_bytes;
        capabilities.is_store = match found {
            Ok(FoundDirectory::Store(files)) => matches!(read_identity(&files), Ok(Some(_))),
            _ => false,
        };
    }
    Ok(capabilities)
}
