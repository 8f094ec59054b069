//! The Markdown pages of the project: lines of at most 100 columns, list items of at most three lines,
//! and links that lead to a file and a heading that exist.

mod support;

use std::path::Path;

use support::{read, run, source, tool};

const COLUMNS: usize = 100;
const ITEM_LINES: usize = 3;

/// The kind of a line.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Code,
    /// Code in a block that begins with "```console": output, shown as the program printed it.
    Output,
}

/// The lines of a page with their numbers and kinds.
fn lines(page: &str) -> Vec<(usize, &str, Kind)> {
    let mut kind = Kind::Text;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(page.lines()) {
        let fence = line.trim_start().strip_prefix("```");
        let indented = kind == Kind::Text && line.starts_with("    ");
        match fence {
            Some(word) if kind == Kind::Text => {
                found.push((number, line, Kind::Code));
                kind = if word == "console" {
                    Kind::Output
                } else {
                    Kind::Code
                };
            }
            Some(_) => {
                kind = Kind::Text;
                found.push((number, line, Kind::Code));
            }
            None if indented => found.push((number, line, Kind::Code)),
            None => found.push((number, line, kind)),
        }
    }
    found
}

/// Whether a line begins an item of a list.
fn begins_item(line: &str) -> bool {
    let line = line.trim_start();
    let numbered = line.trim_start_matches(|c: char| c.is_ascii_digit());
    ["- ", "* "].iter().any(|mark| line.starts_with(mark))
        || numbered.len() < line.len() && numbered.starts_with(". ")
}

/// The lines of a page that are too long, and the list items that have too many lines.
fn too_long(page: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut item = 0; // lines of the list item so far; 0: outside of one
    for (number, line, kind) in lines(page) {
        let words = line.trim_start().trim_start_matches("- ");
        let bare_address = words.contains("://") && !words.contains(' ');
        let columns = line.chars().count();
        if columns > COLUMNS && !line.starts_with('|') && !bare_address && kind != Kind::Output {
            faults.push(format!(
                "{number}: {columns} columns; the limit is {COLUMNS}"
            ));
        }
        item = match kind {
            Kind::Text if begins_item(line) => 1,
            Kind::Text if item > 0 && line.starts_with(' ') => item + 1,
            _ => 0,
        };
        if item == ITEM_LINES + 1 {
            faults.push(format!(
                "{number}: a list item of more than {ITEM_LINES} lines"
            ));
        }
    }
    faults
}

/// The anchor that a link must have to reach a heading, as GitHub forms it.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars()
        .filter(|c| c.is_alphanumeric() || "-_".contains(*c))
        .collect()
}

fn anchors(page: &str) -> Vec<String> {
    lines(page)
        .into_iter()
        .filter(|(_, line, kind)| *kind == Kind::Text && line.starts_with('#'))
        .map(|(_, line, _)| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

/// The relative links of a page that lead to no file or heading; `directory` is the directory of the page.
fn broken_links(page: &str, directory: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line, _) in lines(page)
        .into_iter()
        .filter(|(.., kind)| *kind == Kind::Text)
    {
        for target in line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = directory.join(file);
            if file.contains(':') {
                continue; // on the web
            }
            if !file.is_empty() && !path.exists() {
                faults.push(format!("{number}: a link to {file}, which does not exist"));
            } else if !heading.is_empty() {
                let there = if file.is_empty() {
                    page.to_owned()
                } else {
                    read(path)
                };
                if !anchors(&there).iter().any(|anchor| anchor == heading) {
                    faults.push(format!(
                        "{number}: a link to {target}, a heading that does not exist"
                    ));
                }
            }
        }
    }
    faults
}

#[test]
fn every_page_keeps_the_rules() {
    if !source(".git").exists() {
        return; // a packed source tree: git cannot list its pages
    }
    let Some(mut git) = tool("git", "git") else {
        return;
    };
    let listed = run(git.arg("-C").arg(source("")).args(["ls-files", "*.md"]));
    let mut faults = Vec::new();
    for name in listed.lines() {
        let (path, page) = (source(name), read(source(name)));
        let mut found = broken_links(&page, path.parent().expect("it is in a directory"));
        found.extend(too_long(&page));
        faults.extend(found.into_iter().map(|fault| format!("{name}:{fault}")));
    }
    assert!(listed.contains("README.md"), "git lists no pages: {listed}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn each_rule_finds_what_breaks_it() {
    let long = "x ".repeat(51);
    let page = format!(
        "# A `b`, c\n{long}\n| {long} |\n```console\n{long}\n```\n```\n{long}\n```\n\
         - one\n  two\n  three\n- https://example.org/{}\n  four\n\n1. a\n   b\n   c\n   d\n\
         [x](#a-b-c) [x](#nowhere) [x](nothing.md) [x](Cargo.toml) [x](https://a.b/)\n",
        "x".repeat(100)
    );
    assert_eq!(
        too_long(&page),
        [
            "2: 102 columns; the limit is 100",
            "8: 102 columns; the limit is 100",
            "19: a list item of more than 3 lines",
        ]
    );
    assert_eq!(
        broken_links(&page, &source("")),
        [
            "20: a link to #nowhere, a heading that does not exist",
            "20: a link to nothing.md, which does not exist",
        ]
    );
}
