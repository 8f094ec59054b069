//! Finds commits by number, label, id or position, and describes commits in messages.

use vmstore::Store;

use crate::fail::{Code, Failure};
use crate::screen::{LABEL, NUMBER, paint, printable};
use crate::units::{count, id};

/// A commit can be given by this many digits of its unique id, or more.
const FEWEST_DIGITS: usize = 4;

/// How a message names a commit: "commit 12 (label)".
pub(crate) fn describe(store: &Store, commit: u64) -> Result<String, Failure> {
    // Only the beginning of a long label is shown.
    const LONGEST: usize = 24;
    let label = store.commit_info(commit)?.label;
    let number = paint(NUMBER, &commit.to_string());
    let label = match label.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}...", &label[..at]),
        None => label,
    };
    Ok(match label.as_str() {
        "" => format!("commit {number}"),
        label => format!("commit {number} ({})", paint(LABEL, &printable(label))),
    })
}

/// The commit with this name.
pub(crate) fn find(store: &Store, name: &str) -> Result<u64, Failure> {
    // A label may contain `~` and `^`, so the whole name is tried first.
    if let Some(commit) = plain(store, name)? {
        return Ok(commit);
    }
    if let Some((base, back)) = steps(name) {
        let mut commit = plain(store, base)?.ok_or_else(|| unknown(store, base))?;
        for step in 0..back {
            let parent = store.commit_info(commit)?.parent;
            if parent == 0 {
                let message = format!(
                    "{}: there are only {} before {base}",
                    printable(name),
                    count(step, "commit")
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

/// As [`find`], but "0" is the memory before the first commit, which holds zeros.
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
    if digits.len() < FEWEST_DIGITS || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
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
            let message = format!(
                "{name}: the ids of commits {} begin with these digits",
                numbers.join(", ")
            );
            Err(Failure::new(Code::Failed, message)
                .hint("give more digits, or the number of the commit"))
        }
    }
}

/// Splits `base~3`, `base^` or `base^^~2` into the base and the number of steps back.
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
            "there is no commit \"{}\": no commit of this store has this number, label or id",
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
            "the newest commit is {newest}; `vmstore log` lists all commits"
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
