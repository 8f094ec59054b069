//! `vmstore diff`: the differences between two commits.

use anstream::println;
use serde_json::json;
use vmstore::{Range, Store};

use crate::args;
use crate::commits;
use crate::fail::{Code, Outcome};
use crate::heat;
use crate::hex;
use crate::screen::{DIM, NUMBER, Screen, paint};
use crate::store_dir::StoreDir;
use crate::units::{bytes, count};

/// Up to this many ranges are listed without --ranges.
const FEW: usize = 8;

pub(crate) fn diff(dir: &StoreDir, screen: &Screen, options: &args::Diff) -> Outcome {
    let opened = dir.open_or_salvage()?;
    let store = &opened.store;
    let from = commits::find_or_nothing(store, &options.from)?;
    let to = commits::find_or_nothing(store, &options.to)?;
    let ranges = store
        .diff(from, to, options.module.as_deref())
        .map_err(|error| dir.explain(error))?;
    if options.json {
        let list = ranges.iter().map(
            |range| json!({"module": range.module, "offset": range.offset, "length": range.length}),
        );
        println!(
            "{:#}",
            json!({"from": from, "to": to, "ranges": list.collect::<Vec<_>>()})
        );
    } else if ranges.is_empty() {
        println!("commits {from} and {to} hold the same bytes");
    } else {
        text(store, screen, options, (from, to), &ranges).map_err(|error| dir.explain(error))?;
    }
    Ok(Code::found_if(
        !ranges.is_empty() || opened.damage.is_some(),
    ))
}

fn text(
    store: &Store,
    screen: &Screen,
    options: &args::Diff,
    (from, to): (u64, u64),
    ranges: &[Range],
) -> vmstore::Result<()> {
    let page = store.stats()?.page_size;
    let total: u64 = ranges.iter().map(|range| range.length).sum();
    let name = |commit: u64| match commit {
        0 => "empty memory".to_owned(),
        commit => format!("commit {}", paint(NUMBER, &commit.to_string())),
    };
    println!(
        "{} to {}: {} ({}) in {}",
        name(from),
        name(to),
        count(total / page, "page"),
        bytes(total),
        count(ranges.len() as u64, "place")
    );
    let mut lines = options.lines;
    for (module, size) in crate::show::sizes(store, from, to)? {
        let own: Vec<&Range> = ranges
            .iter()
            .filter(|range| range.module == module)
            .collect();
        if own.is_empty() {
            continue;
        }
        let places: Vec<(u64, u64)> = own
            .iter()
            .map(|range| (range.offset, range.length))
            .collect();
        heat::print(screen, options.rows, (&module, size), page, &places);
        if options.ranges || places.len() <= FEW {
            println!();
            list(&places, page);
        } else {
            println!(
                "{}",
                paint(
                    DIM,
                    &format!("{:>10}  {} places; --ranges lists them", "", places.len())
                )
            );
        }
        if options.hex {
            println!();
            hex::differences(store, (from, to), &module, &places, &mut lines)?;
        }
    }
    Ok(())
}

/// Prints the ranges, each with its first and last byte, in hexadecimal, and its size.
fn list(places: &[(u64, u64)], page: u64) {
    println!(
        "{}",
        paint(
            DIM,
            &format!("{:>10}  {:>10}   pages    bytes", "from", "to")
        )
    );
    for (offset, length) in places {
        let end = offset + length - 1;
        println!(
            "{:>10x}  {end:>10x}  {:>6}  {:>7}",
            offset,
            length / page,
            bytes(*length)
        );
    }
}
