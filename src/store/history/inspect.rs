//! Looking at a store: the head, commits, modules, statistics.

use crate::Result;
use crate::module::MappedModule;
use crate::store::options::{CommitInfo, ModuleInfo, Stats};
use crate::store::state::Store;

impl Store {
    /// The number of the head: the commit that memory was last brought to, by a commit or a restore.
    /// 0: there is no commit yet.
    ///
    /// # Errors
    /// Only those that all methods of [`Store`] give.
    pub fn head(&self) -> Result<u64> {
        Ok(self.enter()?.history.head())
    }

    /// The numbers of all commits, ascending; see `store_list_commits`.
    ///
    /// # Errors
    /// As [`Store::head`].
    pub fn commits(&self) -> Result<Vec<u64>> {
        Ok(self.enter()?.history.numbers())
    }

    /// Information about a commit, with its label and user data; see `store_commit_info`.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound): there is no such commit.
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

    /// Information about the modules of a commit, in the order of their ids; see
    /// `store_list_modules`. 0 stands for the head, together with modules that are mapped and not
    /// committed yet.
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
        for (id, mapped) in &state.modules {
            let at = modules.binary_search_by(|module| module.id.cmp(id));
            let at = match at {
                Ok(at) => at,
                Err(_) if commit != 0 => continue,
                Err(at) => {
                    modules.insert(at, ModuleInfo::unmapped(id, mapped.module.size()));
                    at
                }
            };
            let info = &mut modules[at];
            info.address = mapped.module.memory.address();
            info.mode = Some(mapped.module.mode);
            info.tracker = Some(mapped.module.tracker());
            info.tracker_reason
                .clone_from(&mapped.module.tracker_reason);
            info.mode_reason.clone_from(&mapped.module.mode_reason);
            info.fell_back = mapped.module.fell_back;
            info.compares = mapped.module.compares();
            info.mapped_size = mapped.module.size();
            info.unverified_bytes = mapped.module.unverified;
        }
        Ok(modules)
    }

    /// Counters, and figures of the last capture, commit and restore; see `store_stats`.
    ///
    /// # Errors
    /// As [`Store::head`].
    pub fn stats(&self) -> Result<Stats> {
        let state = self.enter()?;
        let count = |what: &dyn Fn(&MappedModule) -> bool| {
            let modules = state.modules.values();
            modules.filter(|mapped| what(&mapped.module)).count() as u64
        };
        Ok(Stats {
            commits: state.history.len() as u64,
            unpersisted_commits: state.history.unpersisted() as u64,
            mapped_modules: state.modules.len() as u64,
            mapped_bytes: state
                .modules
                .values()
                .map(|mapped| mapped.module.size())
                .sum(),
            page_size: self.page_size(),
            arena_bytes: state
                .captures
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
