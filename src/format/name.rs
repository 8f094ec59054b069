//! Names in the store directory: the names of files, and which module ids are allowed.

use crate::{Error, Result};

/// The file with the metadata of persisted commits.
pub(crate) const COMMITS: &str = "commits";
/// In `.vmstore`: the journal of commits that are not persisted yet.
pub(crate) const JOURNAL: &str = "journal";
/// In `.vmstore`: how far the journal was written.
pub(crate) const HIGH_WATER: &str = "high-water";
/// In `.vmstore`: the file that makes the directory a store.
pub(crate) const IDENTITY: &str = "identity";
/// In `.vmstore`: the prefix of the names of unfinished files.
pub(crate) const TEMPORARY: &str = "new-";

const MAX_ID: usize = 200;

/// Checks a module id against the rules for module ids.
pub(crate) fn check_module_id(id: &str) -> Result<()> {
    let rule = if id.is_empty() || id.len() > MAX_ID {
        "a module id has 1 to 200 bytes"
    } else if !id
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    {
        "a module id has only the characters A-Z a-z 0-9 . _ -"
    } else if id.starts_with('.') {
        "a module id must not begin with a dot"
    } else if id == COMMITS {
        "a module id must not be \"commits\", which is a file of the store"
    } else if id.ends_with("_last") {
        "a module id must not end in \"_last\", because the names of links end so"
    } else if parse_module_commit(id).is_some() {
        "a module id must not end in \"_Commit\" and digits, because the names of module commits end so"
    } else {
        return Ok(());
    };
    let shown: String = id.chars().take(64).flat_map(char::escape_default).collect();
    let what = match id.chars().nth(64) {
        None => format!("module_id \"{shown}\""),
        Some(_) => format!("module_id \"{shown}...\", of {} bytes", id.len()),
    };
    Err(Error::invalid(what, rule))
}

/// The name of the file of a module commit.
pub(crate) fn module_commit(module: &str, commit: u64) -> String {
    format!("{module}_Commit{commit}")
}

/// The name of the link to the module commit that the head uses.
pub(crate) fn last(module: &str) -> String {
    format!("{module}_last")
}

/// The module and the number in the name of a module commit file. Any number of digits is accepted:
/// only the store gives files such names.
pub(crate) fn parse_module_commit(name: &str) -> Option<(&str, u64)> {
    let (module, digits) = name.rsplit_once("_Commit")?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((module, digits.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_format() {
        assert_eq!(module_commit("ram", 12), "ram_Commit12");
        assert_eq!(last("ram"), "ram_last");
    }

    #[test]
    fn module_ids() {
        for good in [
            "a",
            "ram",
            "A.b_c-9",
            "a_Commit",
            "a_Commit1x",
            "_last1",
            &"x".repeat(200),
        ] {
            assert!(check_module_id(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            ".a",
            "a/b",
            "a b",
            "commits",
            "a_last",
            "_last",
            "a_Commit1",
            "_Commit0",
            "a_Commit99999999999999999999",
            "\u{e9}",
            &"x".repeat(201),
        ] {
            let error = check_module_id(bad).unwrap_err().to_string();
            assert!(error.contains("a module id"), "{bad}: {error}");
        }
    }

    #[test]
    fn file_names_go_both_ways() {
        assert_eq!(module_commit("ram", 12), "ram_Commit12");
        assert_eq!(parse_module_commit("ram_Commit12"), Some(("ram", 12)));
        assert_eq!(parse_module_commit("ram_Commit"), None);
        assert_eq!(parse_module_commit("ram_CommitX"), None);
    }
}
