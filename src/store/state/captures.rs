//! Captures and the memory that holds their pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::modules::ModuleState;
use crate::layer::{Draft, LayerFiles};
use crate::module::MappedModule;
use crate::page_set::{Run, pages_in};
use crate::store::options::CommitOptions;
use crate::sys::arena::Arena;

/// The captures of a store, and the memory for them.
#[derive(Default)]
pub(in crate::store) struct Captures {
    /// `None` until a module is mapped.
    pub(in crate::store) arena: Option<Arena>,
    /// Pages that a precopy has copied into the arena while the guest ran.
    pub(in crate::store) precopied: Option<Precopied>,
    /// The capture that waits to be committed or cancelled.
    pub(in crate::store) outstanding: Option<Captured>,
    /// The lists of earlier captures, for use in the next capture.
    pub(in crate::store) lists: ListPool,
}

/// What a capture holds until it is committed or cancelled. `discard` makes its pages dirty again.
pub(in crate::store) struct Captured {
    pub(in crate::store) serial: u64,
    pub(in crate::store) options: CommitOptions,
    pub(in crate::store) modules: Vec<CapturedModule>,
    /// Pages copied while the guest was paused.
    pub(in crate::store) copied: u64,
}

pub(in crate::store) struct CapturedModule {
    pub(in crate::store) module: Arc<MappedModule>,
    /// All pages of the module that are in the capture.
    pub(in crate::store) runs: Vec<Run>,
    /// The pages whose bytes wait in the arena, and their places in the arena.
    pub(in crate::store) waiting: Vec<(Run, usize)>,
    /// The draft of the module commit. It is begun when the first waiting pages are written.
    pub(in crate::store) draft: Option<Draft>,
}

type Lists = (Vec<Run>, Vec<(Run, usize)>);

/// The lists of earlier captures. The next capture takes them, and then allocates nothing.
#[derive(Default)]
pub(in crate::store) struct ListPool {
    pub(in crate::store) modules: Vec<CapturedModule>,
    lists: Vec<Lists>,
}

impl ListPool {
    /// Takes the lists of a capture that has ended.
    pub(in crate::store) fn keep(&mut self, mut modules: Vec<CapturedModule>) {
        for module in modules.drain(..) {
            let (mut runs, mut waiting) = (module.runs, module.waiting);
            runs.clear();
            waiting.clear();
            self.lists.push((runs, waiting));
        }
        self.modules = modules;
    }

    /// Makes lists for one more module of `pages` pages. The lists are long enough for most
    /// captures, therefore even the first capture allocates nothing. If there is no memory for the
    /// lists, captures allocate.
    pub(in crate::store) fn prepare(&mut self, pages: u64) {
        const RUNS: u64 = 4096;
        let runs = pages.div_ceil(2).min(RUNS) as usize;
        let (mut list, mut waiting) = (Vec::new(), Vec::new());
        let had = list.try_reserve_exact(runs).is_ok()
            && waiting.try_reserve_exact(runs).is_ok()
            && self.lists.try_reserve(1).is_ok()
            && self.modules.try_reserve(self.lists.len() + 1).is_ok();
        if had {
            self.lists.push((list, waiting));
        }
    }

    pub(in crate::store) fn module(&mut self, module: &Arc<MappedModule>) -> CapturedModule {
        let (runs, waiting) = self.lists.pop().unwrap_or_default();
        CapturedModule {
            module: module.clone(),
            runs,
            waiting,
            draft: None,
        }
    }
}

impl Captured {
    pub(in crate::store) fn pages(&self) -> u64 {
        self.modules.iter().map(|m| pages_in(&m.runs)).sum()
    }

    /// Gives up the capture: its pages are dirty again, and its files are removed.
    pub(in crate::store) fn discard(mut self, layers: &LayerFiles, lists: &mut ListPool) {
        for captured in &mut self.modules {
            captured.module.dirty.add_all(&captured.runs);
            if let Some(draft) = captured.draft.take() {
                draft.discard(layers);
            }
        }
        lists.keep(self.modules);
    }
}

/// Pages in the arena. Each page was copied after the tracker had reported its last known write. A
/// page that was written after its copy is dirty again.
#[derive(Default)]
pub(in crate::store) struct Precopied {
    /// For each module: its runs in page order, and the place of each run in the arena.
    pub(in crate::store) modules: BTreeMap<String, Vec<(Run, usize)>>,
    /// The bytes of the arena that are in use.
    pub(in crate::store) used: usize,
}

impl Precopied {
    pub(in crate::store) fn waiting(&self, module: &str) -> &[(Run, usize)] {
        self.modules.get(module).map_or(&[], Vec::as_slice)
    }

    pub(in crate::store) fn pages(&self) -> u64 {
        let lists = self.modules.values().flatten();
        lists.map(|(run, _)| run.count).sum()
    }

    /// Makes its pages dirty again.
    pub(in crate::store) fn give_back(&self, modules: &BTreeMap<String, ModuleState>) {
        for (id, waiting) in &self.modules {
            if let Some(state) = modules.get(id) {
                let adding = state.module.dirty.adding();
                let mut gathering = adding.gathering();
                for (run, _) in waiting {
                    gathering.add(*run);
                }
            }
        }
    }
}
