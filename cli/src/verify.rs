//! `vmstore verify`: checks every byte against its checksum.

use anstream::println;
use vmstore::{Error, Finding, Store, VerifyOptions};

use crate::args;
use crate::commits::{self, describe};
use crate::fail::{Code, Failure, Outcome};
use crate::progress::with_bar;
use crate::screen::{BOLD, DIM, ERROR, GOOD, Screen, hint, paint, printable};
use crate::store_dir::StoreDir;
use crate::units::count;

/// The result of a verification.
#[derive(Default)]
pub(crate) struct Found {
    /// One line for each damage.
    pub(crate) damage: Vec<String>,
    pub(crate) good: Vec<u64>,
    pub(crate) lost: Vec<u64>,
}

pub(crate) fn verify(dir: &StoreDir, screen: &Screen, options: &args::Verify) -> Outcome {
    let opened = dir.open_or_salvage()?;
    let store = &opened.store;
    let commit = match &options.commit {
        None => 0,
        Some(name) => commits::find(store, name)?,
    };
    let wanted = VerifyOptions {
        metadata_only: options.metadata,
        commit,
    };
    let found = run(dir, store, &wanted)?;
    for line in &found.damage {
        // The mark and the blank after it take eight columns.
        for (number, line) in screen.wrap(line, 8).into_iter().enumerate() {
            let mark = if number == 0 {
                paint(ERROR, "damaged")
            } else {
                " ".repeat(7)
            };
            println!("{mark} {line}");
        }
    }
    let what = scope(&wanted);
    let clean = found.damage.is_empty() && found.lost.is_empty() && opened.damage.is_none();
    if clean {
        let about = match commit {
            0 => count(found.good.len() as u64, "commit"),
            commit => describe(store, commit)?,
        };
        println!("{} {about}: {what} are intact", paint(GOOD, "good"));
        return Ok(Code::Good);
    }
    if !found.damage.is_empty() {
        println!();
    }
    summary(store, &found, opened.damage.is_none())?;
    if dir.owner().is_some() {
        let text = "a VMM has the store open: commits that the VMM deletes or compacts during the check may look damaged; verify again to be sure";
        println!("{}", hint(text));
    }
    Ok(Code::Found)
}

/// Prints which commits are lost and which are good, with advice.
fn summary(store: &Store, found: &Found, writable: bool) -> Result<(), Failure> {
    if found.lost.is_empty() {
        println!("{}", paint(BOLD, "no listed commit needs the damaged data"));
    } else {
        println!(
            "{}",
            paint(
                BOLD,
                &format!("{} lost", count(found.lost.len() as u64, "commit"))
            )
        );
        for commit in &found.lost {
            println!("  {}", describe(store, *commit)?);
        }
    }
    println!(
        "{} {}",
        paint(
            GOOD,
            &format!("{} good", count(found.good.len() as u64, "commit"))
        ),
        paint(DIM, &ranges(&found.good))
    );
    if let Some(newest) = found.good.last() {
        if writable {
            let text = format!(
                "the newest good commit is {newest}: `vmstore restore {newest}` makes it the head"
            );
            println!("{}", hint(&text));
        }
        let text = format!(
            "`vmstore dump {newest}` saves its memory; copy the store before you change it"
        );
        println!("{}", hint(&text));
    }
    Ok(())
}

/// What a verification checks.
pub(crate) fn scope(options: &VerifyOptions) -> &'static str {
    if options.metadata_only {
        "history and indexes"
    } else {
        "history, indexes and every page"
    }
}

/// Verifies everything, also after the first damage.
pub(crate) fn run(
    dir: &StoreDir,
    store: &Store,
    options: &VerifyOptions,
) -> Result<Found, Failure> {
    let mut found = Found::default();
    let mut listener = |finding: &Finding<'_>| {
        match finding {
            Finding::Damage { page, error, .. } => {
                let text = error.to_string().replacen(": damaged: ", ": ", 1);
                let text = match page {
                    // The text names the file, and so the module and the commit, but not always the page.
                    Some(page) if !text.contains("page ") => format!("{text} (page {page})"),
                    _ => text,
                };
                found.damage.push(printable(&text));
            }
            Finding::Good(commit) => found.good.push(*commit),
            Finding::Lost(commit) => found.lost.push(*commit),
        }
        true
    };
    let result = with_bar("verify", dir.quiet, |progress| {
        store.verify_all(options, Some(&mut listener), progress)
    });
    match result {
        // The listener has had each of these.
        Ok(()) | Err(Error::Corrupt { .. } | Error::Version { .. } | Error::Io { .. }) => Ok(found),
        Err(error) => Err(dir.explain(error)),
    }
}

/// Numbers in ascending order as text: "1-4, 6, 8-9".
pub(crate) fn ranges(numbers: &[u64]) -> String {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let text = parts.iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    text.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn neighbours_become_ranges() {
        assert_eq!(super::ranges(&[1, 2, 3, 5, 7, 8]), "1-3, 5, 7-8");
        assert_eq!(super::ranges(&[]), "");
    }
}
