//! Commits by the names that people use.

use vmstore::Store;

use crate::fail::{Code, Failure};
use crate::screen::printable;
use crate::units::id;

/// The fewest digits of a unique id that name a commit.
const FEWEST: usize = 4;

/// The commit that a name means.
pub(crate) fn find(store: &Store, name: &str) -> Result<u64, Failure> {
    // A label may look like anything, and comes first where it is not a number.
    if let Some(commit) = plain(store, name)? {
        return Ok(commit);
    }
    if let Some((base, back)) = steps(name) {
        let mut commit = plain(store, base)?.ok_or_else(|| unknown(store, base))?;
        for step in 0..back {
            let parent = store.commit_info(commit)?.parent;
            if parent == 0 {
                let s = if step == 1 { "" } else { "s" };
                let message = format!(
                    "{}: there are only {step} commit{s} before {base}",
                    printable(name)
                );
                return Err(
                    Failure::new(Code::Failed, message).hint("`vmstore log` draws the tree")
                );
            }
            commit = parent;
        }
        return Ok(commit);
    }
    Err(unknown(store, name))
}

/// As [`find`], but "0" is the empty memory before the first commit.
pub(crate) fn find_or_nothing(store: &Store, name: &str) -> Result<u64, Failure> {
    if name == "0" {
        Ok(0)
    } else {
        find(store, name)
    }
}

/// A name without `~` or `^`.
fn plain(store: &Store, name: &str) -> Result<Option<u64>, Failure> {
    let commits = store.commits()?;
    if let Ok(number) = name.parse::<u64>() {
        if commits.binary_search(&number).is_ok() {
            return Ok(Some(number));
        }
    }
    if name == "head" || name == "HEAD" || name == "@" {
        return match store.head()? {
            0 => Err(Failure::new(
                Code::Failed,
                "there is no head: the store has no commits yet",
            )),
            head => Ok(Some(head)),
        };
    }
    if !name.is_empty() {
        if let Ok(commit) = store.find_commit(name) {
            return Ok(Some(commit));
        }
    }
    by_id(store, &commits, name)
}

fn by_id(store: &Store, commits: &[u64], name: &str) -> Result<Option<u64>, Failure> {
    let digits = name.to_ascii_lowercase();
    if digits.len() < FEWEST || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for commit in commits {
        if id(&store.commit_info(*commit)?.unique_id).starts_with(&digits) {
            found.push(*commit);
        }
    }
    match found[..] {
        [] => Ok(None),
        [commit] => Ok(Some(commit)),
        _ => {
            let numbers: Vec<String> = found.iter().map(u64::to_string).collect();
            let message = format!("{name}: the ids of commits {} begin so", numbers.join(", "));
            Err(Failure::new(Code::Failed, message).hint("give more digits, or the number"))
        }
    }
}

/// `base~3`, `base^`, `base^^~2` taken apart.
fn steps(name: &str) -> Option<(&str, u64)> {
    let at = name.find(['~', '^']).filter(|at| *at > 0)?;
    let (base, mut rest) = name.split_at(at);
    let mut back = 0u64;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('^') {
            back = back.checked_add(1)?;
            rest = after;
            continue;
        }
        rest = rest.strip_prefix('~')?;
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        back = back.checked_add(if digits.is_empty() {
            1
        } else {
            digits.parse().ok()?
        })?;
        rest = after;
    }
    Some((base, back))
}

fn unknown(store: &Store, name: &str) -> Failure {
    let failure = Failure::new(
        Code::Failed,
        format!(
            "there is no commit \"{}\": it is no number, label or id of this store",
            printable(name)
        ),
    );
    let Ok(commits) = store.commits() else {
        return failure;
    };
    let Some(newest) = commits.last() else {
        return failure.hint("the store has no commits yet");
    };
    let wanted = name.to_lowercase();
    let labels = commits
        .iter()
        .rev()
        .filter_map(|n| Some(store.commit_info(*n).ok()?.label));
    let alike = labels.filter(|label| !label.is_empty()).find(|label| {
        label.to_lowercase().contains(&wanted) || wanted.contains(&label.to_lowercase())
    });
    match alike {
        Some(label) => failure.hint(format!("did you mean \"{}\"?", printable(&label))),
        None => failure.hint(format!(
            "the newest is {newest}; `vmstore log` lists them all"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::steps;

    #[test]
    fn steps_back_are_counted() {
        assert_eq!(steps("head~2"), Some(("head", 2)));
        assert_eq!(steps("head^"), Some(("head", 1)));
        assert_eq!(steps("a^^~10~"), Some(("a", 13)));
        for none in ["head", "~2", "a~b", "a^2", "a~99999999999999999999"] {
            assert_eq!(steps(none), None, "{none}");
        }
    }
}
