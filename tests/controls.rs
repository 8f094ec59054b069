//! Negative controls: each sync, ordering, checksum and precaution of the library is taken out of a copy of its
//! source, and the tests in process must fail. Prints the table that docs/reliability.md has. It builds the library once
//! for each, so that it is run when asked for: `cargo test --test controls -- --ignored --nocapture`.

mod support;

use std::path::Path;
use std::process::Command;
use support::{read, source};

/// What is taken out: its name, the search that is to miss it, its file, the text there, and what stands in its place.
const CONTROLS: &[(&str, &str, &str, &str, &str)] = &[
    (
        "persist: sync of a commit's file",
        "explorer",
        "src/store/persist.rs",
        "open.sync()?;",
        "",
    ),
    (
        "persist: sync of a dead owner's file",
        "explorer",
        "src/store/persist.rs",
        "self.0.pages.open(&file.module, file.commit)?.sync()?;",
        "",
    ),
    (
        "persist: a doubtful file is written again",
        "faults",
        "src/store/persist.rs",
        "super::recover::write_again(&self.0.pages, &file.module, file.commit)?;",
        "",
    ),
    (
        "persist: sync of the names",
        "explorer",
        "src/store/persist.rs",
        "self.0.files.sync_dir(Dir::Root)?;",
        "",
    ),
    (
        "persist: sync of the records",
        "explorer",
        "src/store/persist.rs",
        "commits.sync()?;",
        "",
    ),
    (
        "persist: the mark of a sync under way",
        "explorer",
        "src/store/persist.rs",
        "journal.set_syncing(true)?;",
        "",
    ),
    (
        "persist: the mark stays after a failed sync",
        "faults",
        "src/store/persist.rs",
        "journal.set_syncing(keep)",
        "journal.set_syncing(keep && false)",
    ),
    (
        "persist: a failed sync poisons",
        "faults",
        "src/store/persist.rs",
        "if matches!(error, Error::Sync { .. }) {",
        "if false {",
    ),
    (
        "persist: records appended once when made again",
        "faults",
        "src/store/persist.rs",
        "&events[known..]",
        "&events[known * 0..]",
    ),
    (
        "persist: the journal is emptied after the records are durable",
        "explorer",
        "src/store/persist.rs",
        "let work = (state.pending.clone(), state.unsynced.clone());",
        "let work = (state.pending.clone(), state.unsynced.clone());\n\
         if let Some(journal) = &mut state.journal { journal.persisted(0, true)?; }",
    ),
    (
        "commit: names before the record",
        "explorer",
        "src/store/commit.rs",
        "self.0.files.rename(&file.temporary, &place)?;",
        "let _ = &place;",
    ),
    (
        "commit: failed, its pages are dirty again",
        "faults",
        "src/store/commit.rs",
        "captured.module.dirty.add_all(&captured.runs);",
        "let _ = (&module, &runs);",
    ),
    (
        "capture: discarded, its pages are dirty again",
        "faults",
        "src/store/capture.rs",
        "captured.module.dirty.add_all(&captured.runs);",
        "",
    ),
    (
        "restore: failed, pages are dirty again",
        "faults",
        "src/store/restore.rs",
        "plan.module.dirty.add_all(&plan.dirty);",
        "let _ = &plan;",
    ),
    (
        "restore: the record of the moved head",
        "explorer",
        "src/store/restore.rs",
        "self.move_head(&mut state, commit)",
        "Ok(())",
    ),
    (
        "making a stream: sync of its file",
        "explorer",
        "src/journal/mod.rs",
        "stream.file.sync()?;",
        "",
    ),
    (
        "making a stream: sync of its name",
        "explorer",
        "src/journal/mod.rs",
        "files.sync_dir(stream.place.dir)",
        "Ok::<(), Error>(())",
    ),
    (
        "recovery: sync of what a dead owner appended",
        "explorer",
        "src/journal/replay.rs",
        "file.sync()?;\n                // The file's name",
        "// The file's name",
    ),
    (
        "recovery: sync of its name",
        "explorer",
        "src/journal/replay.rs",
        "files.sync_dir(place(kind).dir)?;",
        "",
    ),
    (
        "recovery: doubtful records are written again",
        "faults",
        "src/journal/replay.rs",
        "write_again(&*file, known, half.end)?;",
        "",
    ),
    (
        "recovery: commits cut back after a doubtful sync",
        "faults",
        "src/journal/replay.rs",
        "if let Some(promised) = promised.filter(|_| journal.syncing)",
        "if let Some(promised) = promised.filter(|_| false)",
    ),
    (
        "little: sync of the journal",
        "explorer",
        "src/store/keep.rs",
        "            file.sync()\n        } else {",
        "            Ok(())\n        } else {",
    ),
    (
        "little: sync of the journal's name",
        "explorer",
        "src/store/keep.rs",
        "named.and_then(|()| file.sync())",
        "{\ndrop(named);\nfile.sync()\n}",
    ),
    (
        "little: the mark of a sync under way",
        "faults",
        "src/store/keep.rs",
        "journal.set_syncing(true)?;",
        "",
    ),
    (
        "little: deletions take it for durable",
        "crash",
        "src/store/mod.rs",
        "self.last.max(self.promised)",
        "self.last",
    ),
    (
        "unload: sync of a file that is whole",
        "explorer",
        "src/store/keep.rs",
        "there.sync()?;",
        "",
    ),
    (
        "unload: sync of a file that is written again",
        "explorer",
        "src/store/keep.rs",
        "new.sync()?;",
        "",
    ),
    (
        "unload: sync of the names",
        "explorer",
        "src/store/keep.rs",
        "pages.files.sync_dir(Dir::Root)",
        "Ok(())",
    ),
    (
        "unload: after a failed sync all are written again",
        "faults",
        "src/store/keep.rs",
        "!suspect && is_whole(pages, file)?",
        "is_whole(pages, file)?",
    ),
    (
        "unload: a file that is not whole is written again",
        "explorer",
        "src/store/keep.rs",
        "!suspect && is_whole(pages, file)?",
        "true || is_whole(pages, file)?",
    ),
    (
        "recovery: a journal whose sync failed is written anew",
        "faults",
        "src/store/recover.rs",
        "dropped || unload || suspect,",
        "dropped || unload,",
    ),
    (
        "recovery: sync of what a dead owner made durable in the journal",
        "explorer",
        "src/journal/replay.rs",
        "stream.sync()?;",
        "",
    ),
    (
        "recovery: and of the journal's name",
        "explorer",
        "src/journal/replay.rs",
        "files.sync_dir(stream.place.dir)?;",
        "",
    ),
    (
        "recovery: a durable commit that is not whole is damage",
        "damage",
        "src/store/recover.rs",
        "if records[at].sequence <= replay.promised {",
        "if false {",
    ),
    (
        "recovery: a journal behind commits is written anew",
        "explorer",
        "src/journal/replay.rs",
        "record.sequence < last);",
        "record.sequence < last && false);",
    ),
    (
        "journal: a failed append is cut off",
        "faults",
        "src/journal/mod.rs",
        "self.ragged = self.file.set_len(self.end).is_err();\n            return Err(error);",
        "return Err(error);",
    ),
    (
        "recovery: unpersisted files are checked",
        "explorer",
        "src/store/recover.rs",
        "match check_files(pages, commit, oldest.unwrap_or(1), &mut checked) {",
        "match Ok::<(), Error>(()) {",
    ),
    (
        "recovery: sync of a file written again",
        "faults",
        "src/store/recover.rs",
        "again.file.sync().and_then(|()| {",
        "Ok(()).and_then(|()| {",
    ),
    (
        "making a store: sync of the identity",
        "explorer",
        "src/store/open.rs",
        "file.sync()?;",
        "",
    ),
    (
        "making a store: sync of its name",
        "explorer",
        "src/store/open.rs",
        "files.sync_dir(Dir::Hidden)?;",
        "",
    ),
    (
        "streams: the link between generations",
        "explorer",
        "src/format/record.rs",
        "if at == HEADER && header.previous != 0",
        "if at == usize::MAX && header.previous != 0",
    ),
    (
        "streams: a record follows the one before",
        "damage",
        "src/format/record.rs",
        "parsed.link != scan.link ||",
        "",
    ),
    (
        "checksum of a stream's header",
        "damage",
        "src/format/header.rs",
        "if sum != checksum::metadata(store, body).to_le_bytes() {",
        "if false {",
    ),
    (
        "checksum of a record's head",
        "damage",
        "src/format/record.rs",
        "if sum != expected.to_le_bytes() {",
        "if false {",
    ),
    (
        "checksum of a record",
        "damage",
        "src/format/record.rs",
        "if checksum::metadata(store, payload) != payload_sum {",
        "if false {",
    ),
    (
        "checksum of a footer",
        "damage",
        "src/format/index.rs",
        "if sum != checksum::metadata(store, body).to_le_bytes() {",
        "if false {",
    ),
    (
        "checksum of an index",
        "damage",
        "src/format/index.rs",
        "|| self.sum.sum() != self.wanted_sum",
        "",
    ),
    (
        "checksum of the identity",
        "damage",
        "src/format/identity.rs",
        "if sum != checksum::plain(body).to_le_bytes() {",
        "if false {",
    ),
    (
        "checksum of a page",
        "damage",
        "src/pages/read.rs",
        "if checksum::page(page) != checksums[part.slot as usize + number] {",
        "if false {",
    ),
    (
        "digest that binds file and record",
        "damage",
        "src/store/verify.rs",
        "if index.size != module.size || index.digest != module.digest {",
        "if false {",
    ),
];

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{}",
        from.display()
    );
}

/// The tests that fail in a source tree; `None` when it does not build.
fn failures(tree: &Path, target: &Path, search: &str) -> Option<Vec<String>> {
    let mut command = Command::new(env!("CARGO"));
    command
        .args([
            "test",
            "--release",
            "--lib",
            &format!("store::tests::{search}"),
            "--manifest-path",
        ])
        .arg(tree.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true")
        .env("VMSTORE_CRASHES", "8")
        .env("VMSTORE_STEPS", "2")
        .env("RUST_BACKTRACE", "0");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if !text.contains("test result: ") {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let failed = text.lines().filter_map(|line| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(name.trim_start_matches("store::tests::").to_owned())
    });
    let mut failed: Vec<String> = failed.collect();
    failed.sort();
    failed.dedup();
    Some(failed)
}

/// Every text is there, once: a control that takes out nothing would say nothing.
#[test]
fn every_control_takes_something_out() {
    let mut wrong = Vec::new();
    for (name, _, file, from, to) in CONTROLS {
        let found = read(source(file)).matches(from).count();
        if found != 1 {
            wrong.push(format!("{name}: {file} has {found} times: {from}"));
        }
        assert_ne!(from, to);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[ignore = "builds the library once for each control"]
fn every_precaution_that_is_taken_out_is_missed() {
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("vmstore");
    std::fs::create_dir(&tree).unwrap();
    let parts = [
        "Cargo.toml",
        "Cargo.lock",
        "build.rs",
        "cbindgen.toml",
        "src",
        "include",
        "cmake",
        "benches",
        "c-tests",
        "cli",
        "crash-tests",
        "README.md",
        "examples",
    ];
    for part in parts {
        copy(&source(part), &tree);
    }
    let target = scratch.path().join("target");
    let sound = failures(&tree, &target, "").expect("the copy builds");
    assert!(sound.is_empty(), "with everything in place: {sound:?}");
    let mut missed = Vec::new();
    println!("| taken out | caught by |\n|---|---|");
    // A part of a name, for some of them.
    let wanted = std::env::var("VMSTORE_CONTROLS").unwrap_or_default();
    for (name, search, file, from, to) in CONTROLS {
        if !name.contains(&wanted) {
            continue;
        }
        let sound = read(source(file));
        std::fs::write(tree.join(file), sound.replacen(from, to, 1)).unwrap();
        let failed =
            failures(&tree, &target, search).unwrap_or_else(|| panic!("{name}: it does not build"));
        std::fs::write(tree.join(file), sound).unwrap();
        if failed.is_empty() {
            missed.push(*name);
        }
        println!(
            "| {name} | {} |",
            if failed.is_empty() {
                "NOTHING".into()
            } else {
                failed.join(", ")
            }
        );
    }
    println!(
        "{} controls, {} caught",
        CONTROLS.len(),
        CONTROLS.len() - missed.len()
    );
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
