//! Long random histories.

use super::{Random, Rig};

impl Rig {
    /// One or the other.
    fn persist_somehow(&mut self, random: &mut Random) {
        if random.below(2) == 0 {
            self.persist();
        } else {
            self.persist_in_files();
        }
    }

    /// Makes a history that grows, with some persists, and then deletes all commits except the head in some order,
    /// with commits and persists between. Returns the number of operations before the first deletion.
    pub(crate) fn grow_and_delete(
        &mut self,
        random: &mut Random,
        commits: u64,
        compacts: bool,
    ) -> usize {
        self.map("a");
        self.map("b");
        for _ in 0..commits {
            self.scribble(random);
            self.commit();
            if random.below(3) == 0 {
                self.persist_somehow(random);
            }
            if random.below(4) == 0 {
                let all = &self.oracle.now().commits;
                self.restore(all[random.below(all.len() as u64) as usize]);
            }
        }
        if random.below(4) != 0 {
            self.persist_somehow(random);
        }
        let from = self.files.recorded();
        let mut more = 4;
        loop {
            let others = self.deletable();
            if others.is_empty() {
                break;
            }
            self.delete(others[random.below(others.len() as u64) as usize]);
            match random.below(if compacts { 9 } else { 6 }) {
                6..=8 => {
                    let percent = [0, 1, 100][random.below(3) as usize];
                    self.compact(random.below(4) as usize, percent);
                }
                0 => self.persist_somehow(random),
                1 if more > 0 => {
                    more -= 1;
                    self.scribble(random);
                    self.commit();
                }
                _ => {}
            }
            // The store still knows the pages that a write is compared with and a restore reads.
            self.scribble(random);
            self.restore(self.oracle.now().head);
        }
        if compacts {
            self.compact(0, 0);
        }
        self.persist_somehow(random);
        from
    }

    /// A random history of a few operations.
    pub(crate) fn live(&mut self, random: &mut Random, steps: u64) {
        self.map("a");
        for step in 0..steps {
            match random.below(11) {
                8..=10 => {
                    let others = self.deletable();
                    if !others.is_empty() {
                        self.delete(others[random.below(others.len() as u64) as usize]);
                    }
                }
                0 if !self.has("b") => self.map("b"),
                1 | 2 => self.persist_somehow(random),
                3 if !self.oracle.now().commits.is_empty() => {
                    let commits = &self.oracle.now().commits;
                    let commit = commits[random.below(commits.len() as u64) as usize];
                    self.restore(commit);
                }
                _ => {
                    self.scribble(random);
                    self.commit();
                }
            }
            if step + 1 == steps {
                self.scribble(random);
                self.commit();
            }
        }
    }
}
