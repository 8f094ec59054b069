//! `vmstore log`: the tree of commits.

use anstream::{eprintln, println};
use serde_json::{Value, json};

use crate::args;
use crate::fail::{Code, Outcome};
use crate::history::{History, Node};
use crate::place::Place;
use crate::screen::{
    BOLD, DIM, HEAD, LABEL, NUMBER, Screen, WARNING, hint, paint, printable, width,
};
use crate::table::{Align, Cell, Table};
use crate::tree::Lanes;
use crate::units::{age, bytes, count, id, now};

pub(crate) fn log(place: &Place, screen: &Screen, options: &args::Log) -> Outcome {
    let looked = place.look()?;
    let history = History::of(&looked.store)?;
    let limit = options.limit.unwrap_or(usize::MAX);
    if options.json {
        let all = history
            .nodes
            .values()
            .rev()
            .take(limit)
            .map(|node| object(&history, node));
        println!("{:#}", Value::Array(all.collect()));
    } else {
        for line in lines(screen, &history, limit, now()) {
            println!("{line}");
        }
    }
    let unreadable = history.nodes.values().any(|node| !node.readable);
    if unreadable {
        eprintln!(
            "{}",
            hint("`vmstore verify` says what is damaged, and which commits are good")
        );
    }
    Ok(if unreadable || looked.damage.is_some() {
        Code::Found
    } else {
        Code::Good
    })
}

fn object(history: &History, node: &Node) -> Value {
    json!({
        "commit": node.info.commit,
        "id": id(&node.info.unique_id),
        "parent": (node.info.parent != 0).then_some(node.info.parent),
        "head": node.info.commit == history.head,
        "label": node.info.label,
        "time_ns": node.info.time,
        "persisted": node.info.persisted,
        "modules": node.info.modules,
        "size": node.size,
        "wrote": history.wrote(node),
        "user_data": node.info.user_data.len(),
        "readable": node.readable,
    })
}

/// The drawing, newest first.
pub(crate) fn lines(screen: &Screen, history: &History, limit: usize, now: u64) -> Vec<String> {
    if history.nodes.is_empty() {
        return vec![
            "no commits yet".into(),
            paint(
                DIM,
                "a VMM makes them with store_commit; `vmstore demo` shows how they look",
            ),
        ];
    }
    let mut lanes = Lanes::default();
    let newest = history.nodes.values().rev().take(limit);
    let drawn: Vec<_> = newest
        .map(|node| {
            let commit = node.info.commit;
            // Of a damaged history a parent may be lost.
            let parent = history.parent(node).unwrap_or(0);
            (
                node,
                lanes.next(screen, commit, parent, commit == history.head),
            )
        })
        .collect();
    // The tree may take a third of the line; its widest rows are cut.
    let tree_width = |d: &crate::tree::Drawn| width(&d.before) + 1 + width(&d.after);
    let widest = drawn.iter().map(|(_, d)| tree_width(d)).max().unwrap_or(1);
    let room = widest.min(screen.width / 3);
    let inner = Screen {
        width: screen.width - room - 1,
        ..*screen
    };
    let mut table = Table::new(&[
        ("commit", Align::Right),
        ("label", Align::Flexible),
        ("", Align::Left),
        ("wrote", Align::Right),
        ("of", Align::Right),
        ("when", Align::Left),
        ("id", Align::Left),
    ]);
    for (node, _) in &drawn {
        table.row(row(history, node, now));
    }
    let mut lines = table.lines(&inner).into_iter();
    let heading = lines
        .next()
        .map(|line| format!("{} {line}", " ".repeat(room)));
    let rows = drawn.iter().zip(lines).map(|((node, d), line)| {
        let style = if node.info.commit == history.head {
            HEAD
        } else {
            BOLD
        };
        let tree = if tree_width(d) <= room {
            let space = " ".repeat(room - tree_width(d));
            format!(
                "{}{}{}{space}",
                paint(DIM, &d.before),
                paint(style, &d.node),
                paint(DIM, &d.after)
            )
        } else {
            let tree = screen.cut(&format!("{}{}{}", d.before, d.node, d.after), room);
            format!(
                "{}{}",
                paint(DIM, &tree),
                " ".repeat(room.saturating_sub(width(&tree)))
            )
        };
        format!("{tree} {line}")
    });
    let mut all: Vec<String> = heading.into_iter().chain(rows).collect();
    all.push(footer(history, drawn.len()));
    all
}

fn row(history: &History, node: &Node, now: u64) -> Vec<Cell> {
    let info = &node.info;
    let (note, style) = if !node.readable {
        ("damaged", WARNING)
    } else if history.parent(node).is_none() {
        ("parent lost", WARNING)
    } else if info.commit == history.head {
        ("head", HEAD)
    } else if !info.persisted {
        ("volatile", DIM)
    } else {
        ("", DIM)
    };
    let wrote = history.wrote(node).map_or("?".into(), bytes);
    vec![
        Cell::new(info.commit.to_string(), NUMBER),
        Cell::new(printable(&info.label), LABEL),
        Cell::new(note, style),
        wrote.into(),
        bytes(node.size).into(),
        age(info.time, now).into(),
        Cell::new(&id(&info.unique_id)[..8], DIM),
    ]
}

fn footer(history: &History, shown: usize) -> String {
    let all = history.nodes.len();
    let mut text = count(all as u64, "commit");
    if shown < all {
        text = format!("the newest {shown} of {text}");
    }
    let volatile = history
        .nodes
        .values()
        .filter(|node| !node.info.persisted)
        .count();
    if volatile > 0 {
        text.push_str(&format!(
            "; {volatile} not persisted yet: a power cut would lose them"
        ));
    }
    paint(DIM, &text)
}
