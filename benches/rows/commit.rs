//! A commit that a killed process does not lose, beside the same bytes into a new file.

use twox_hash::XxHash3_64;
use vmstore::MapOptions;

use super::{Bench, base, commit as make_commit, open};
use crate::contest::{Player, hold};
use crate::machine::{file_system, page_size};
use crate::memory::{self, Armed, Region};
use crate::peers::Floors;
use crate::report::Target;

pub fn commit(bench: &mut Bench) {
    for directory in bench.directories.clone() {
        let scratch = bench.scratch(&directory);
        let store = open(&scratch.path().join("store"));
        let length = bench.module_bytes();
        let module = bench.module(&store, length, &MapOptions::default());
        let bare = Region::anonymous(length);
        memory::fill(bare.base, length, &mut bench.rng);
        let mut bare = Armed::new(bare);
        let into = Region::arena(64 << 20);
        let mut floors = Floors::new(&scratch.path().join("floors"));
        let mut points = vec![Vec::new(); 2];
        for count in bench.dirty_sets(&[1, 128, 1024, 8192]) {
            let pages = &bench.rng.scattered(count, length / page_size());
            let packed = count * page_size();
            let players: Vec<Player<'_>> = vec![
                Box::new(|sheet, rng| {
                    memory::dirty(base(&module), pages, rng.next());
                    sheet.time("vmstore", || make_commit(&store));
                    let stats = store.stats().expect("stats");
                    sheet.add("its capture", stats.last_capture_ns as f64 / 1000.0);
                }),
                Box::new(|sheet, rng| {
                    memory::dirty(bare.region.base, pages, rng.next());
                    sheet.time("floor", || {
                        bare.scan();
                        memory::gather(bare.region.base, pages, &into);
                        let bytes = &into.bytes()[..packed];
                        let sums: Vec<u64> = bytes
                            .chunks_exact(page_size())
                            .map(XxHash3_64::oneshot)
                            .collect();
                        std::hint::black_box(sums);
                        // Kept, as the store keeps its files: so both need fresh page cache.
                        floors.create(bytes);
                        floors.note();
                    });
                }),
            ];
            let sheet = hold(bench.rounds, 3, &mut bench.rng, players);
            // What was written goes now, and not during the next contest.
            store.persist(None).expect("a persist");
            let case = format!(
                "{count} pages of {} MiB, {}",
                length >> 20,
                file_system(&directory)
            );
            let floor = Some(("scan, memcpy, checksum, new file", sheet.get("floor")));
            bench.report.line(
                "commit",
                case,
                "us",
                ("commit", sheet.get("vmstore")),
                floor,
                Target::Within(1.25),
            );
            points[0].push((count as f64, sheet.get("vmstore").median()));
            points[1].push((count as f64, sheet.get("floor").median()));
        }
        if directory == bench.directories[0] {
            for (name, points) in ["commit", "bare steps of a commit"].into_iter().zip(points) {
                bench.plots.add("dirty", name, points);
            }
        }
    }
}
