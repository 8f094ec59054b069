//! A full disk, with every number of free blocks: on tmpfs and on ext4, in private and shared mode. Calls that need no
//! space succeed. Calls that need space fail with the right error. No process gets a signal. When there is space again,
//! work continues.

mod support;

use std::path::Path;

use support::mount::Mounted;
use support::{Cycle, Expected, scratch, skipped, text};

/// When so many levels in a row refuse nothing, there is room for everything, and more levels would show nothing new.
const ENOUGH: u64 = 12;

/// Returns how many cycles were tried, how many calls were refused for want of space, and the most free blocks at which a
/// call was refused.
fn every_level(kind: &str, cycle: &Cycle, directory: &Path) -> (u64, u64, u64) {
    let megabytes = if kind == "tmpfs" { 2 } else { 8 };
    let mounted = Mounted::new(kind, directory, megabytes);
    let (mut tried, mut refused, mut most) = (0, 0, 0);
    for shared in [false, true] {
        for step in [0, 1, 3, 4] {
            let (mut blocks, mut enough) = (0, 0);
            while enough < ENOUGH {
                let store = mounted.0.join("store");
                let mut command = cycle.command("full", &store);
                // At step 0 the disk is filled before there is a store: the directory must be there to be measured.
                std::fs::create_dir(&store).unwrap();
                command.args([step.to_string(), blocks.to_string()]);
                if shared {
                    command.env("CYCLE_SHARED", "1");
                }
                let output = command.output().unwrap();
                let what = || {
                    format!(
                        "{kind}, shared {shared}, {blocks} free blocks at step {step}: {}",
                        text(&output)
                    )
                };
                assert!(output.status.success(), "{}", what());
                let said = String::from_utf8_lossy(&output.stdout);
                let count = said.lines().find_map(|line| line.strip_prefix("refused "));
                let count = count.unwrap().parse::<u64>().unwrap();
                enough = if count == 0 { enough + 1 } else { 0 };
                refused += count;
                cycle.check(&store, Expected::ALL, &what);
                tried += 1;
                std::fs::remove_dir_all(&store).unwrap();
                blocks += 1;
            }
            most = most.max(blocks - ENOUGH - 1);
        }
    }
    (tried, refused, most)
}

#[test]
fn promise_3_a_full_disk_at_every_level() {
    if skipped("promise_3_a_full_disk_at_every_level") {
        return;
    }
    let directory = scratch();
    let cycle = Cycle::build(directory.path());
    for kind in ["tmpfs", "ext4"] {
        let (tried, refused, most) = every_level(kind, &cycle, directory.path());
        println!(
            "{kind}: {tried} cycles on a full disk, from no block of 4 KiB free to {ENOUGH} more than the {most} at which the \
             last was refused: {refused} calls refused for want of space, no signal, restore and list worked, and all went on"
        );
        assert!(refused > tried / 8 && most > 30);
    }
}
