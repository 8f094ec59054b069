//! Draws the tree of commits, the newest first. Each open branch has a column. Columns join at a commit that has
//! several children.

use crate::screen::Screen;

/// The columns of the tree. A column in use holds the number of the commit that comes next in it.
#[derive(Default)]
pub(crate) struct Lanes(Vec<Option<u64>>);

/// The row of one commit.
pub(crate) struct Drawn {
    /// The columns to the left of the commit.
    pub(crate) before: String,
    pub(crate) node: String,
    /// The columns to the right of the commit.
    pub(crate) after: String,
}

impl Lanes {
    /// Draws the next older commit. `parent` 0 ends the branch.
    pub(crate) fn next(&mut self, screen: &Screen, commit: u64, parent: u64, head: bool) -> Drawn {
        let waiting = |lane: &Option<u64>| *lane == Some(commit);
        let own = self.0.iter().position(waiting).unwrap_or_else(|| {
            let free = self.0.iter().position(Option::is_none);
            free.unwrap_or_else(|| {
                self.0.push(None);
                self.0.len() - 1
            })
        });
        let last = self.0.iter().rposition(waiting).unwrap_or(own).max(own);
        let mut before = String::new();
        let mut after = String::new();
        for (at, lane) in self.0.iter().enumerate() {
            if at == own {
                continue;
            }
            let joins = at > own && waiting(lane);
            let mark = match (at > own && at <= last, joins, lane.is_some()) {
                (true, true, _) if at == last => screen.either("\u{256f}", "'"),
                (true, true, _) => screen.either("\u{2534}", "'"),
                (true, false, true) => screen.either("\u{253c}", "+"),
                (true, false, false) => screen.either("\u{2500}", "-"),
                (false, _, true) => screen.either("\u{2502}", "|"),
                (false, _, false) => " ",
            };
            if at < own {
                before.push_str(mark);
                before.push(' ');
            } else {
                after.push_str(if at <= last {
                    screen.either("\u{2500}", "-")
                } else {
                    " "
                });
                after.push_str(mark);
            }
        }
        for lane in &mut self.0 {
            if waiting(lane) {
                *lane = None;
            }
        }
        self.0[own] = Some(parent).filter(|parent| *parent != 0);
        while self.0.last() == Some(&None) {
            self.0.pop();
        }
        Drawn {
            before,
            node: if head {
                screen.either("\u{25c9}", "@")
            } else {
                screen.either("\u{25cb}", "*")
            }
            .to_owned(),
            after: after.trim_end().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(commits: &[(u64, u64)]) -> Vec<String> {
        let screen = Screen {
            width: 80,
            unicode: false,
        };
        let mut lanes = Lanes::default();
        let line = |(commit, parent): &(u64, u64)| {
            let drawn = lanes.next(&screen, *commit, *parent, *commit == commits[0].0);
            format!("{}{}{}", drawn.before, drawn.node, drawn.after)
        };
        commits.iter().map(line).collect()
    }

    #[test]
    fn branches_join_at_their_parent() {
        assert_eq!(drawn(&[(3, 2), (2, 1), (1, 0)]), ["@", "*", "*"]);
        // 4 and 3 are children of 1, and so is 2.
        assert_eq!(
            drawn(&[(4, 1), (3, 1), (2, 1), (1, 0)]),
            ["@", "| *", "| | *", "*-'-'"]
        );
        // A branch that is crossed, and a column that is used again.
        assert_eq!(
            drawn(&[(6, 2), (5, 1), (4, 2), (3, 1), (2, 1), (1, 0)]),
            ["@", "| *", "| | *", "| | | *", "*-+-' |", "*-'---'"]
        );
        // Two roots.
        assert_eq!(drawn(&[(3, 0), (2, 1), (1, 0)]), ["@", "*", "*"]);
    }
}
