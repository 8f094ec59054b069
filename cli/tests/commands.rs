//! What the commands do, their exit codes, and what they say when they cannot.

mod support;

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use support::{PAGE, Rig, Vmm, ends, run, vmstore};
use vmstore::{MapOptions, OpenOptions, Store};

/// Four commits, the last on a branch of its own, and the bytes of RAM at each.
fn four(rig: &Rig) -> (std::path::PathBuf, Vmm, Vec<Vec<u8>>) {
    let path = rig.path("store");
    let vmm = Vmm::new(&path, 64);
    let mut bytes = vec![vmm.read(&vmm.ram)];
    for n in 1..=4u8 {
        if n == 4 {
            vmm.restore(2);
        }
        vmm.write(&vmm.ram, u64::from(n) * 8, 3, n);
        vmm.commit(["", "first", "second", "third", "7"][usize::from(n)]);
        bytes.push(vmm.read(&vmm.ram));
    }
    vmm.persist();
    (path, vmm, bytes)
}

fn head(path: &std::path::Path) -> u64 {
    let options = OpenOptions {
        read_only: true,
        ..OpenOptions::default()
    };
    Store::open(path, options)
        .and_then(|store| store.head())
        .expect("the store opens")
}

#[test]
fn commits_have_many_names() {
    let rig = Rig::new();
    let (path, vmm, _) = four(&rig);
    let id = |n: u64| -> String {
        let id = vmm.store.commit_info(n).expect("it is there").unique_id;
        id.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let first = id(1);
    let names: [(&str, u64); 10] = [
        ("3", 3),
        ("head", 4),
        ("@", 4),
        ("@^", 2),
        ("head~2", 1),
        ("third~1", 2),
        ("first", 1),
        (&first, 1),
        (&first[..12], 1),
        // A label that is a number which no commit has.
        ("7", 4),
    ];
    for (name, number) in names {
        let shown = ends(0, &path, &["show", name]);
        assert!(
            shown.starts_with(&format!("commit {number}")),
            "{name}: {shown}"
        );
    }
    let wrong = [
        ("head~3", "there are only 2 commits before head"),
        ("secnod", "the newest is 4"),
        ("Third", "did you mean \"third\"?"),
        ("5", "there is no commit \"5\""),
        ("", "there is no commit"),
        ("a\u{1b}[31m", "a\\u{1b}[31m"),
    ];
    for (name, said) in wrong {
        let shown = ends(3, &path, &["show", name]);
        assert!(shown.contains(said), "{name}: {shown}");
    }
}

#[test]
fn beside_a_vmm_all_that_looks_works_and_what_changes_waits() {
    let rig = Rig::new();
    let (path, vmm, bytes) = four(&rig);
    for looks in [
        &["log"][..],
        &["show"],
        &["verify"],
        &["du"],
        &["doctor"],
        &["dump", "1", "ram"],
        &["export"],
    ] {
        let output = vmstore(&path, looks).output().expect("the command starts");
        assert_eq!(output.status.code(), Some(0), "{looks:?} {output:?}");
    }
    ends(1, &path, &["diff", "1", "2"]);
    let clone = rig.path("clone");
    ends(0, &path, &["clone", clone.to_str().expect("it is UTF-8")]);
    for changes in [&["restore", "1"][..], &["rm", "1"], &["compact"]] {
        let shown = ends(4, &path, changes);
        let owner = format!("process {} (", std::process::id());
        assert!(shown.contains(&owner), "{shown}");
        assert!(
            shown.contains(changes[0]) && shown.contains("log, show, diff"),
            "{shown}"
        );
    }
    // Nothing of that reached the VMM.
    assert_eq!(vmm.read(&vmm.ram), bytes[4]);
    vmm.write(&vmm.ram, 0, 1, 77);
    assert_eq!(vmm.commit("goes on"), 5);
}

#[test]
fn dumps_are_the_memory_to_files_with_holes_and_through_pipes() {
    let rig = Rig::new();
    let (path, vmm, bytes) = four(&rig);
    drop(vmm);
    let mut dumps = 0;
    for (n, want) in bytes.iter().enumerate().skip(1) {
        let number = n.to_string();
        let output = vmstore(&path, &["dump", &number, "ram"])
            .output()
            .expect("the command starts");
        assert!(
            output.status.success() && output.stdout == *want,
            "commit {n} through a pipe"
        );
        let file = rig.path(&number);
        let name = file.to_str().expect("it is UTF-8");
        ends(0, &path, &["dump", &number, "ram", "-o", name]);
        assert!(
            std::fs::read(&file).expect("it is there") == *want,
            "commit {n} in a file"
        );
        let blocks = std::fs::metadata(&file).expect("it is there").blocks() * 512;
        assert!(
            blocks < 24 * PAGE,
            "a sparse file has {blocks} bytes of blocks"
        );
        // It is not written over.
        assert!(ends(3, &path, &["dump", &number, "ram", "-o", name]).contains("not there yet"));
        dumps += 2;
    }
    assert!(ends(2, &path, &["dump", "1"]).contains("which module? commit 1 has cpu, ram"));
    assert!(ends(3, &path, &["dump", "1", "disk"]).contains("commit 1 has cpu, ram"));
    println!("{dumps} dumps as in the guest");
}

#[test]
fn restore_moves_the_head_and_a_vmm_comes_up_there() {
    let rig = Rig::new();
    let (path, vmm, bytes) = four(&rig);
    drop(vmm);
    let shown = ends(0, &path, &["restore", "second"]);
    assert!(
        shown.contains("the head is commit 2 (second) now; it was commit 4"),
        "{shown}"
    );
    assert!(ends(0, &path, &["restore", "2"]).contains("already"));
    let store = Store::open(&path, OpenOptions::default()).expect("the store opens");
    let ram = store
        .map_module("ram", 0, &MapOptions::default())
        .expect("the module maps");
    let mut got = vec![0; ram.size() as usize];
    store.read(2, "ram", 0, &mut got).expect("it can be read");
    assert_eq!(store.head().expect("there is one"), 2);
    assert!(got == bytes[2]);
}

#[test]
fn rm_deletes_what_it_names_and_never_the_head() {
    let rig = Rig::new();
    let (path, vmm, bytes) = four(&rig);
    drop(vmm);
    let shown = ends(4, &path, &["rm", "3", "head"]);
    assert!(
        shown.contains("nothing was deleted") && shown.contains("vmstore restore 2"),
        "{shown}"
    );
    assert!(ends(0, &path, &["rm", "--dry-run", "3"]).contains("would delete commit 3 (third)"));
    assert!(ends(0, &path, &["log"]).contains("third"));
    assert!(ends(0, &path, &["rm", "third", "2", "3"]).contains("deleted commit 2"));
    assert!(ends(3, &path, &["show", "3"]).contains("no commit \"3\""));
    for n in [1, 4usize] {
        let output = vmstore(&path, &["dump", &n.to_string(), "ram"])
            .output()
            .expect("the command starts");
        assert!(output.stdout == bytes[n], "commit {n}");
    }
}

#[test]
fn compact_keeps_what_its_rules_say() {
    let rig = Rig::new();
    let (path, vmm, _) = four(&rig);
    drop(vmm);
    assert!(ends(0, &path, &["compact"]).contains("0 commits deleted, 4 kept"));
    assert!(
        ends(
            0,
            &path,
            &["compact", "--keep-last", "1", "--keep-every", "2"]
        )
        .contains("2 commits deleted, 2 kept")
    );
    let shown = ends(2, &path, &["compact", "--keep-younger", "soon"]);
    assert!(shown.contains("as in 36h"), "{shown}");
    assert_eq!(head(&path), 4);
}

#[test]
fn streams_go_through_pipes_whole_and_as_changes() {
    let rig = Rig::new();
    let (path, vmm, bytes) = four(&rig);
    drop(vmm);
    let other = rig.path("other");
    let send = |from: &[&str], code: i32| {
        let mut sender = vmstore(&path, from);
        let mut sender = sender
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the command starts");
        let pipe = sender.stdout.take().expect("it is piped");
        let (got, out, error) = run(vmstore(&other, &["import"]).stdin(pipe));
        // An importer that refuses the beginning does not read the rest.
        let sent = sender.wait().expect("it ends").success();
        assert!(sent || code != 0, "{from:?}");
        assert_eq!(got, code, "{out}{error}");
        format!("{out}{error}")
    };
    assert!(send(&["export", "first"], 0).contains("1 new commit imported"));
    let shown = send(&["export", "third", "--from", "second"], 3);
    assert!(
        shown.contains("import first what it goes on from"),
        "{shown}"
    );
    assert!(send(&["export", "third", "--from", "first"], 0).contains("2 new commits imported"));
    assert!(send(&["export", "third"], 0).contains("0 new commits imported"));
    let output = vmstore(&other, &["dump", "third", "ram"])
        .output()
        .expect("the command starts");
    assert!(output.stdout == bytes[3]);
    // A stream that was cut.
    let file = rig.path("stream");
    let name = file.to_str().expect("it is UTF-8");
    ends(0, &path, &["export", "head", "-o", name]);
    let length = std::fs::metadata(&file).expect("it is there").len();
    let cut = std::fs::File::options()
        .write(true)
        .open(&file)
        .expect("it is there");
    cut.set_len(length - 1).expect("it can be cut");
    assert!(ends(1, &other, &["import", name]).contains("nothing was imported"));
}

#[test]
fn clones_are_stores_of_their_own() {
    let rig = Rig::new();
    let (path, vmm, bytes) = four(&rig);
    drop(vmm);
    let clone = rig.path("clone");
    let name = clone.to_str().expect("it is UTF-8");
    assert!(ends(0, &path, &["clone", name]).contains("4 commits"));
    assert!(ends(3, &path, &["clone", name]).contains("not there yet, or is empty"));
    ends(0, &path, &["rm", "1", "3"]);
    let output = vmstore(&clone, &["dump", "3", "ram"])
        .output()
        .expect("the command starts");
    assert!(output.stdout == bytes[3]);
    ends(0, &clone, &["verify"]);
}

#[test]
fn who_has_no_store_is_told_what_to_do() {
    let rig = Rig::new();
    for arguments in [
        &["log"][..],
        &["verify"],
        &["restore", "1"],
        &["rm", "1"],
        &["compact"],
    ] {
        let shown = ends(3, &rig.path("nowhere"), arguments);
        assert!(
            shown.contains("there is no store in") && shown.contains("--store DIR"),
            "{shown}"
        );
    }
    assert!(!rig.path("nowhere").exists());
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let rig = Rig::new();
    let path = rig.path("store");
    let vmm = Vmm::new(&path, 4096);
    vmm.write(&vmm.ram, 0, 4096, 1);
    vmm.commit("");
    let mut command = vmstore(&path, &["dump", "1", "ram"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut some = [0; 100];
    let mut out = child.stdout.take().expect("it is piped");
    out.read_exact(&mut some).expect("there is that much");
    drop(out);
    let output = child.wait_with_output().expect("it ends");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}

#[test]
fn the_demonstration_runs_and_what_it_keeps_can_be_looked_at() {
    let rig = Rig::new();
    let path = rig.path("kept");
    let name = path.to_str().expect("it is UTF-8");
    let shown = ends(0, &path, &["demo", "--keep", name]);
    assert!(
        shown.contains("a guest that was updated, and is broken"),
        "{shown}"
    );
    assert!(
        shown.contains("in place, in") && shown.contains("\"a guest that has just booted\""),
        "{shown}"
    );
    ends(0, &path, &["verify"]);
    let shown = ends(3, &path, &["demo", "--keep", name]);
    assert!(shown.contains("there is a store already"), "{shown}");
}

#[test]
fn help_completions_and_the_man_page_know_every_command() {
    let rig = Rig::new();
    let nowhere = rig.path("nowhere");
    let help = ends(0, &nowhere, &["--help"]);
    let man = ends(0, &nowhere, &["man"]);
    let bash = ends(0, &nowhere, &["completions", "bash"]);
    let commands = [
        "demo", "log", "show", "diff", "verify", "restore", "rm", "compact", "du", "export",
        "import", "clone", "dump", "doctor",
    ];
    for command in commands {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        assert!(man.contains(&format!("vmstore {command}")), "{command}");
        assert!(bash.contains(command), "{command}");
        assert!(
            ends(0, &nowhere, &[command, "--help"]).contains("Usage:"),
            "{command}"
        );
    }
    assert!(help.contains("Exit codes"), "{help}");
}

/// A VMM that links the library gets no command-line parser.
#[test]
fn the_library_needs_nothing_of_the_command() {
    let cargo = std::env::var_os("CARGO").expect("cargo runs the tests");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let arguments = [
        "tree",
        "--offline",
        "-p",
        "vmstore",
        "-e",
        "normal",
        "--prefix",
        "none",
        "--manifest-path",
        manifest,
    ];
    let output = Command::new(cargo)
        .args(arguments)
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{output:?}");
    let tree = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(tree.contains("twox-hash"), "{tree}");
    for name in ["clap", "indicatif", "anstream", "serde"] {
        assert!(!tree.contains(name), "{tree}");
    }
}
