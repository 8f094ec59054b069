//! The guest's pause.

use vmstore::{CommitOptions, MapOptions, Tracker};

use super::{Bench, base, commit, open};
use crate::contest::{Player, hold};
use crate::machine::page_size;
use crate::memory::{self, Armed, Region};
use crate::report::Target;

/// Captures are cancelled, so no file is written. The pages are dirty again, and the same pages are written before the
/// next capture.
pub fn capture(bench: &mut Bench) {
    let scratch = bench.scratch(&bench.quiet_directory());
    let store = open(&scratch.path().join("store"));
    let length = bench.module_bytes();
    let module = bench.module(&store, length, &MapOptions::default());
    let bare = Region::anonymous(length);
    memory::fill(bare.base, length, &mut bench.rng);
    let mut bare = Armed::new(bare);
    let whole = Region::arena(length);
    let into = Region::arena((64 << 20).max(length / 2));
    let mut points = vec![Vec::new(); 3];
    for count in bench.dirty_sets(&[1, 32, 1024, 8192, 65536]) {
        let pages = &bench.rng.scattered(count, length / page_size());
        let full = matches!(count, 1024 | 8192);
        let mut players: Vec<Player<'_>> = vec![
            Box::new(|sheet, rng| {
                memory::dirty(base(&module), pages, rng.next());
                let capture = sheet.time("vmstore", || store.capture(&CommitOptions::default()));
                let scan = store.stats().expect("stats").last_scan_ns;
                sheet.add("its scan", scan as f64 / 1000.0);
                capture.expect("a capture").cancel().expect("a cancel");
            }),
            Box::new(|sheet, rng| {
                memory::dirty(bare.region.base, pages, rng.next());
                let begun = crate::contest::begin();
                assert_eq!(bare.scan(), pages.len() as u64);
                let scanned = begun.microseconds();
                memory::gather(bare.region.base, pages, &into);
                let both = begun.microseconds();
                sheet.add("bare scan", scanned);
                sheet.add("memcpy", both - scanned);
                sheet.add("scan + memcpy", both);
            }),
        ];
        if full {
            players.push(Box::new(|sheet, _| {
                sheet.time("full copy", || {
                    // SAFETY: both are of that length.
                    unsafe {
                        whole
                            .base
                            .copy_from_nonoverlapping(module.address() as *const u8, length)
                    };
                });
            }));
        }
        let sheet = hold(bench.rounds, 3, &mut bench.rng, players);
        commit(&store);
        let case = format!("{count} pages of {} MiB", length >> 20);
        let most = if count >= 8192 { 1.25 } else { 1.3 };
        let ours = ("capture", sheet.get("vmstore"));
        let floor = ("scan + memcpy", sheet.get("scan + memcpy"));
        bench.report.line(
            "capture",
            case.as_str(),
            "us",
            ours.clone(),
            Some(floor.clone()),
            Target::Within(most),
        );
        let scan = ("its scan", sheet.get("its scan"));
        let bare_scan = Some(("bare ioctl", sheet.get("bare scan")));
        bench.report.line(
            "capture",
            case.as_str(),
            "us",
            scan,
            bare_scan,
            Target::Within(1.1),
        );
        if sheet.has("full copy") {
            let least = if count == 1024 { 40.0 } else { 10.0 };
            let full = Some(("full copy", sheet.get("full copy")));
            bench.report.line(
                "capture",
                case,
                "us",
                ours.clone(),
                full,
                Target::Faster(least),
            );
        }
        for (points, times) in points
            .iter_mut()
            .zip([&ours.1, &floor.1, &sheet.get("memcpy")])
        {
            points.push((count as f64, times.median()));
        }
    }
    for (name, points) in ["capture", "bare scan + memcpy", "memcpy"]
        .into_iter()
        .zip(points)
    {
        bench.plots.add("dirty", name, points);
    }
}

/// One helper thread, compared with none.
pub fn helper(bench: &mut Bench) {
    let scratch = bench.scratch(&bench.quiet_directory());
    let store = open(&scratch.path().join("store"));
    let length = bench.module_bytes();
    let module = bench.module(&store, length, &MapOptions::default());
    for count in bench.dirty_sets(&[8192, 65536]) {
        let pages = &bench.rng.scattered(count, length / page_size());
        let player = |name: &'static str, helpers: u32| -> Player<'_> {
            let (store, module) = (&store, &module);
            let options = CommitOptions {
                helpers,
                ..CommitOptions::default()
            };
            Box::new(move |sheet, rng| {
                memory::dirty(base(module), pages, rng.next());
                let capture = sheet.time(name, || store.capture(&options));
                capture.expect("a capture").cancel().expect("a cancel");
            })
        };
        let players = vec![player("with", 1), player("without", 0)];
        let sheet = hold(bench.rounds, 3, &mut bench.rng, players);
        commit(&store);
        let target = if count >= 65536 {
            Target::Faster(1.5)
        } else {
            Target::Shown
        };
        bench.report.line(
            "helper",
            format!("{count} pages of {} MiB", length >> 20),
            "us",
            ("capture with one helper thread", sheet.get("with")),
            Some(("without", sheet.get("without"))),
            target,
        );
    }
}

pub fn caller(bench: &mut Bench) {
    let scratch = bench.scratch(&bench.quiet_directory());
    let store = open(&scratch.path().join("store"));
    let length = if bench.smoke { 1 << 28 } else { 16_usize << 30 };
    let options = MapOptions {
        tracker: Some(Tracker::Caller),
        ..MapOptions::default()
    };
    let module = store
        .map_module("ram", length as u64, &options)
        .expect("a module");
    let page = page_size() as u64;
    module.mark_dirty(0, page).expect("a page");
    commit(&store);
    let player: Player<'_> = Box::new(|sheet, rng| {
        let at = rng.below(64) * (length / 64 / page as usize);
        memory::dirty(base(&module), &[at], rng.next());
        module.mark_dirty(at as u64 * page, page).expect("a page");
        let capture = sheet.time("capture", || store.capture(&CommitOptions::default()));
        capture.expect("a capture").commit().expect("a commit");
    });
    let sheet = hold(bench.rounds * 5, 70, &mut bench.rng, vec![player]);
    let case = format!("1 page of {} GiB (64 pages of it touched)", length >> 30);
    bench.report.line(
        "caller",
        case,
        "us",
        ("capture", sheet.get("capture")),
        None,
        Target::Below(20.0),
    );
}
