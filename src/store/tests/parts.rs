//! Searches that are divided among processes, one for each processor. Threads of one process would wait for each
//! other whenever a store maps memory.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

/// The environment variable that says which part a process searches, and of how many.
const PART: &str = "VMSTORE_TEST_PART";
const WORD: &str = "counts of this part:";
/// A line about the progress of a part begins with this, and is passed on.
pub(crate) const PROGRESS: &str = "so far:";

/// Passes on the progress that a part reports. Returns the rest of the part's error output.
fn listen(child: &mut Child) -> JoinHandle<String> {
    let complaints = BufReader::new(child.stderr.take().expect("it is piped"));
    std::thread::spawn(move || {
        let mut kept = String::new();
        for line in complaints.lines().map_while(Result::ok) {
            if line.starts_with(PROGRESS) {
                eprintln!("{line}");
            } else {
                kept += &line;
                kept.push('\n');
            }
        }
        kept
    })
}

/// Calls `search` with (part, parts) in a process for each processor, and adds up the counts. `test` is the name of
/// the test that calls this. In such a process: searches, prints the counts, and returns nothing.
pub(crate) fn in_parts<const N: usize>(
    test: &str,
    search: impl Fn(usize, usize) -> [u64; N],
) -> Option<[u64; N]> {
    if let Ok(part) = std::env::var(PART) {
        let (part, parts) = part.split_once('/').expect("a part");
        let counts = search(part.parse().unwrap(), parts.parse().unwrap());
        println!("{WORD} {}", counts.map(|count| count.to_string()).join(" "));
        return None;
    }
    let parts = std::thread::available_parallelism().map_or(2, usize::from);
    let start = |part: usize| {
        Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(PART, format!("{part}/{parts}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut counts = [0; N];
    let mut children: Vec<_> = (0..parts).map(start).collect();
    let mut listeners: Vec<_> = children.iter_mut().map(listen).collect();
    // When one part has found an error, the others are stopped.
    let failed =
        |child: &mut Child| matches!(child.try_wait(), Ok(Some(status)) if !status.success());
    while children
        .iter_mut()
        .any(|child| matches!(child.try_wait(), Ok(None)))
    {
        if let Some(at) = children.iter_mut().position(failed) {
            children.swap(0, at);
            listeners.swap(0, at);
            children[1..]
                .iter_mut()
                .for_each(|child| drop(child.kill()));
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for (child, listener) in children.into_iter().zip(listeners) {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = listener.join().unwrap();
        assert!(output.status.success(), "{said}{complaint}");
        let line = said.lines().find_map(|line| line.split(WORD).nth(1));
        let line = line.unwrap_or_else(|| panic!("{test} counted nothing: {said}{complaint}"));
        for (sum, word) in counts.iter_mut().zip(line.split_whitespace()) {
            *sum += word.parse::<u64>().expect("a number");
        }
    }
    Some(counts)
}
