//! `vmstore show`: one commit.

use anstream::println;
use vmstore::Store;

use crate::args;
use crate::commits;
use crate::fail::{Failure, Outcome};
use crate::heat;
use crate::history::file_name;
use crate::screen::{BOLD, DIM, HEAD, LABEL, NUMBER, Screen, paint, printable};
use crate::store_dir::StoreDir;
use crate::table::{Align, Cell, Table};
use crate::units::{age, bytes, count, id, now, time};

pub(crate) fn show(dir: &StoreDir, screen: &Screen, options: &args::Show) -> Outcome {
    let opened = dir.open_or_salvage()?;
    let store = &opened.store;
    let commit = commits::find(store, &options.commit)?;
    let info = store.commit_info(commit)?;
    let known = info.parent == 0 || store.commit_info(info.parent).is_ok();
    let parent = known.then_some(info.parent);
    let head = if store.head()? == commit {
        paint(HEAD, "  head")
    } else {
        String::new()
    };
    println!(
        "{} {}{head}",
        paint(BOLD, "commit"),
        paint(NUMBER, &commit.to_string())
    );
    let line = |name: &str, value: &str| println!("{} {value}", paint(DIM, &format!("{name:<9}")));
    if !info.label.is_empty() {
        line("label", &paint(LABEL, &printable(&info.label)));
    }
    line("id", &id(&info.unique_id));
    line(
        "parent",
        &match parent {
            Some(0) => "none: this is a first commit".to_owned(),
            Some(parent) => parent.to_string(),
            None => format!("{}, which is lost: the history is damaged", info.parent),
        },
    );
    line(
        "made",
        &format!("{} ({})", time(info.time), age(info.time, now())),
    );
    line(
        "persisted",
        if info.persisted {
            "yes"
        } else {
            "not yet: a power cut would lose it"
        },
    );
    if !info.user_data.is_empty() {
        line("user data", &bytes(info.user_data.len() as u64));
    }
    println!();
    for line in modules(store, screen, commit)? {
        println!("{line}");
    }
    println!();
    changes(store, screen, parent.unwrap_or(0), commit, options.rows)
        .map_err(|error| dir.explain(error))?;
    Ok(opened.code())
}

fn modules(store: &Store, screen: &Screen, commit: u64) -> Result<Vec<String>, Failure> {
    let files = store.files(commit);
    let mut table = Table::new(&[
        ("module", Align::Flexible),
        ("size", Align::Right),
        ("file", Align::Left),
        ("kind", Align::Left),
        ("holds", Align::Right),
        ("files below", Align::Right),
    ]);
    for module in store.modules(commit)? {
        let file = file_name(&module.id, module.module_commit);
        let mut row: Vec<Cell> = vec![
            Cell::new(&module.id, LABEL),
            bytes(module.size).into(),
            file.into(),
        ];
        if let Ok(files) = &files {
            let mut chain = files.iter().filter(|file| file.module == module.id);
            if let Some(top) = chain.next() {
                row.push(if top.is_image() { "image" } else { "delta" }.into());
                row.push(count(top.data_pages + top.zero_pages, "page").into());
                row.push(chain.count().to_string().into());
            }
        }
        table.row(row);
    }
    Ok(table.lines(screen))
}

/// Prints what changed from one commit to another, with a heat map for each module that changed. With `from` 0,
/// prints what `to` holds.
pub(crate) fn changes(
    store: &Store,
    screen: &Screen,
    from: u64,
    to: u64,
    rows: u64,
) -> vmstore::Result<()> {
    let page = store.stats()?.page_size;
    let ranges = store.diff(from, to, None)?;
    let since = if from == 0 {
        "contents".to_owned()
    } else {
        format!("changed since commit {from}")
    };
    if ranges.is_empty() {
        println!("{}: nothing", paint(BOLD, &since));
        return Ok(());
    }
    let total: u64 = ranges.iter().map(|range| range.length).sum();
    let places = count(ranges.len() as u64, "place");
    println!(
        "{}: {} ({}) in {places}",
        paint(BOLD, &since),
        count(total / page, "page"),
        bytes(total)
    );
    for (module, size) in sizes(store, from, to)? {
        let own: Vec<(u64, u64)> = ranges
            .iter()
            .filter(|range| range.module == module)
            .map(|range| (range.offset, range.length))
            .collect();
        if own.is_empty() {
            continue;
        }
        heat::print(screen, rows, (&module, size), page, &own);
    }
    Ok(())
}

/// The modules of the two commits, each with the larger of its two sizes.
pub(crate) fn sizes(store: &Store, from: u64, to: u64) -> vmstore::Result<Vec<(String, u64)>> {
    let mut sizes = std::collections::BTreeMap::new();
    for commit in [from, to].into_iter().filter(|commit| *commit != 0) {
        for module in store.modules(commit)? {
            let size = sizes.entry(module.id).or_insert(0);
            *size = module.size.max(*size);
        }
    }
    Ok(sizes.into_iter().collect())
}
