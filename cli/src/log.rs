//! `vmstore log`: the tree of commits.

use anstream::{eprintln, println};
use serde_json::{Value, json};

use crate::args;
use crate::fail::{Code, Outcome};
use crate::history::{History, Node};
use crate::screen::{
    BOLD, DIM, HEAD, LABEL, NUMBER, Screen, WARNING, hint, paint, printable, width,
};
use crate::store_dir::StoreDir;
use crate::table::{Align, Cell, Table};
use crate::tree::{Drawn, Lanes};
use crate::units::{age, bytes, count, id, now};

pub(crate) fn log(dir: &StoreDir, screen: &Screen, options: &args::Log) -> Outcome {
    let opened = dir.open_or_salvage()?;
    let history = History::of(&opened.store)?;
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
            hint("`vmstore verify` lists the damage and the good commits")
        );
    }
    Ok(Code::found_if(unreadable || opened.damage.is_some()))
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

/// The tree as lines, the newest commit first.
pub(crate) fn lines(screen: &Screen, history: &History, limit: usize, now: u64) -> Vec<String> {
    if history.nodes.is_empty() {
        return vec![
            "no commits yet".into(),
            paint(
                DIM,
                "a VMM makes commits while its guest runs; `vmstore demo` shows an example",
            ),
        ];
    }
    let mut lanes = Lanes::default();
    let newest = history.nodes.values().rev().take(limit);
    let drawn: Vec<_> = newest
        .map(|node| {
            let commit = node.info.commit;
            // A lost parent is drawn as none.
            let parent = history.parent(node).unwrap_or(0);
            (
                node,
                lanes.next(screen, commit, parent, commit == history.head),
            )
        })
        .collect();
    // The tree takes at most a third of the line.
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
        let head = node.info.commit == history.head;
        format!("{} {line}", tree_cell(screen, d, head, room))
    });
    let mut all: Vec<String> = heading.into_iter().chain(rows).collect();
    all.push(footer(history, drawn.len()));
    all
}

fn tree_width(drawn: &Drawn) -> usize {
    width(&drawn.before) + 1 + width(&drawn.after)
}

/// A row of the tree, cut or filled with blanks to `room` columns.
fn tree_cell(screen: &Screen, drawn: &Drawn, head: bool, room: usize) -> String {
    let Drawn {
        before,
        node,
        after,
    } = drawn;
    if tree_width(drawn) > room {
        let tree = screen.cut(&format!("{before}{node}{after}"), room);
        let space = " ".repeat(room.saturating_sub(width(&tree)));
        return format!("{}{space}", paint(DIM, &tree));
    }
    let style = if head { HEAD } else { BOLD };
    format!(
        "{}{}{}{}",
        paint(DIM, before),
        paint(style, node),
        paint(DIM, after),
        " ".repeat(room - tree_width(drawn))
    )
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
        ("unpersisted", DIM)
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
    let unpersisted = history.unpersisted();
    if unpersisted > 0 {
        let them = if unpersisted == 1 { "it" } else { "them" };
        text.push_str(&format!(
            "; {unpersisted} not persisted yet: a power cut would lose {them}"
        ));
    }
    paint(DIM, &text)
}
