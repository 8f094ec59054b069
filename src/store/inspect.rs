//! Looking: the head, commits, modules, statistics, and what the host can do.

use std::path::Path;

use super::Store;
use super::options::{Capabilities, CommitInfo, ModuleInfo, Stats};
use crate::dirty::{KernelTracker, Tracker};
use crate::module::MappedModule;
use crate::sys::realfs::{self, Found};
use crate::sys::{host, memfd};
use crate::{Error, Result};

impl Store {
    /// The head; 0: none.
    ///
    /// # Errors
    /// From inside a callback, and in a forked child.
    pub fn head(&self) -> Result<u64> {
        Ok(self.enter()?.history.head())
    }

    /// The numbers of all commits, ascending.
    ///
    /// # Errors
    /// As [`Store::head`].
    pub fn commits(&self) -> Result<Vec<u64>> {
        Ok(self.enter()?.history.numbers())
    }

    /// What is known of a commit.
    ///
    /// # Errors
    /// As [`Store::head`], and when there is no such commit.
    pub fn commit_info(&self, commit: u64) -> Result<CommitInfo> {
        let state = self.enter()?;
        let entry = state.history.get(commit)?;
        let commit = &entry.commit;
        Ok(CommitInfo {
            commit: commit.number,
            parent: state.history.parent_of(commit),
            time: commit.time,
            unique_id: commit.unique_id,
            label: commit.label.clone(),
            user_data: commit.user_data.clone(),
            modules: commit.modules.len() as u32,
            persisted: entry.persisted,
        })
    }

    /// The modules of a commit; of the head, and those not committed yet, for 0.
    ///
    /// # Errors
    /// As [`Store::commit_info`].
    pub fn modules(&self, commit: u64) -> Result<Vec<ModuleInfo>> {
        let state = self.enter()?;
        let commit_of = match commit {
            0 => state.history.head_commit().cloned(),
            number => Some(state.history.get(number)?.commit.clone()),
        };
        let mut modules = Vec::new();
        for entry in commit_of.iter().flat_map(|commit| &commit.modules) {
            modules.push(ModuleInfo {
                module_commit: entry.module_commit,
                digest: entry.digest.to_bytes(),
                ..ModuleInfo::unmapped(&entry.id, entry.size)
            });
        }
        for (id, bound) in &state.modules {
            let at = modules.binary_search_by(|module| module.id.cmp(id));
            let at = match at {
                Ok(at) => at,
                Err(_) if commit != 0 => continue,
                Err(at) => {
                    modules.insert(at, ModuleInfo::unmapped(id, bound.module.size()));
                    at
                }
            };
            let info = &mut modules[at];
            info.address = bound.module.memory.address();
            info.mode = Some(bound.module.mode);
            info.tracker = Some(bound.module.tracker());
            info.tracker_reason.clone_from(&bound.module.tracker_reason);
            info.mode_reason.clone_from(&bound.module.mode_reason);
            info.fell_back = bound.module.fell_back;
            info.compares = bound.module.compares();
            info.mapped_size = bound.module.size();
            info.unverified_bytes = bound.module.unverified;
        }
        Ok(modules)
    }

    /// Counters and figures of the last calls.
    ///
    /// # Errors
    /// As [`Store::head`].
    pub fn stats(&self) -> Result<Stats> {
        let state = self.enter()?;
        let count = |what: &dyn Fn(&MappedModule) -> bool| {
            let modules = state.modules.values();
            modules.filter(|bound| what(&bound.module)).count() as u64
        };
        Ok(Stats {
            commits: state.history.len() as u64,
            unpersisted_commits: state.history.unpersisted() as u64,
            mapped_modules: state.modules.len() as u64,
            mapped_bytes: state
                .modules
                .values()
                .map(|bound| bound.module.size())
                .sum(),
            page_size: self.0.pages.page_size,
            arena_bytes: state
                .arena
                .as_ref()
                .map_or(0, |arena| arena.touched() as u64),
            compared_modules: count(&|module| module.compares()),
            fallbacks: count(&|module| module.fell_back),
            poisoned: self.0.poison.lock().is_some(),
            read_only: self.0.read_only,
            ..state.stats
        })
    }
}

/// What this host, and the file system of `directory`, can do.
///
/// # Errors
/// When the directory is not there or cannot be looked at.
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
            Ok(Found::Nothing) => {
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
            Ok(Found::Store(files)) => matches!(super::open::read_identity(&files), Ok(Some(_))),
            _ => false,
        };
    }
    Ok(capabilities)
}
