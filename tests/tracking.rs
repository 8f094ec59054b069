//! The table of docs/tracking.md equals, word for word, the table that c-tests/programs/matrix.c measures.

use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_documented_table_is_the_tested_one() {
    let program = read("c-tests/programs/matrix.c");
    let tested: Vec<&str> = program
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","))
        .filter(|line| line.starts_with('|'))
        .collect();
    let documentation = read("docs/tracking.md");
    let documented: Vec<&str> = documentation
        .lines()
        .skip_while(|line| !line.starts_with("| written by"))
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(
        tested.len(),
        13,
        "a head, a rule and 11 writers: {tested:#?}"
    );
    assert_eq!(documented, tested, "docs/tracking.md and matrix.c differ");
}
