//! A store whose directory another process keeps changing. `beset.c` opens, maps, reads, restores, verifies, commits and
//! compacts, while files are renamed, cut, overwritten, linked, and replaced by links, FIFOs, sockets and directories. The
//! library must not crash, hang, give wrong bytes, or open anything outside of the directory. A trace of the system calls
//! shows what it opens.

mod support;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{program, run, scratch, setting, strace, text};

/// The number of ways to change a directory.
const WAYS: u64 = 17;

/// Whether the mutator may write to a file. A symbolic or hard link may lead to a file outside of the store, and opening
/// a FIFO would wait.
fn is_plain(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|data| data.is_file() && data.nlink() == 1)
}

fn writable(path: &Path) -> std::io::Result<fs::File> {
    fs::OpenOptions::new().write(true).open(path)
}

struct Mutator {
    random: u64,
    /// The directory that is changed.
    store: PathBuf,
    /// An intact copy of the store, outside. The library must never open it.
    outside: PathBuf,
    /// A file that is truncated more often than the other files.
    cut: Option<&'static str>,
    done: [u64; WAYS as usize],
}

impl Mutator {
    fn next(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A random file of the store, relative to the store. One in three is a hidden file.
    fn victim(&mut self) -> PathBuf {
        let hidden = self.below(3) == 0;
        let under = if hidden { ".vmstore" } else { "." };
        let names: Vec<OsString> = fs::read_dir(self.outside.join(under))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != ".vmstore")
            .collect();
        let number = self.below(names.len() as u64) as usize;
        Path::new(under).join(&names[number])
    }

    /// Makes one change. The file to change may not exist any more.
    fn change(&mut self) {
        if self.store.join(".vmstore").is_symlink() {
            // The files below this link do not belong to the store, and stay as they are.
            if self.below(4) == 0 {
                let _ = fs::remove_file(self.store.join(".vmstore"));
            }
            return;
        }
        if let Some(name) = self.cut {
            if self.below(3) == 0 {
                let path = self.store.join(name);
                if is_plain(&path) {
                    let _ = writable(&path).and_then(|file| file.set_len(4096));
                }
                return;
            }
        }
        let (file, other) = (self.victim(), self.victim());
        let (path, source) = (self.store.join(&file), self.outside.join(&file));
        let way = self.below(WAYS);
        self.done[way as usize] += 1;
        let length = fs::metadata(&source).map_or(0, |data| data.len());
        let at = self.below(length + 1);
        let plain = is_plain(&path);
        let _ = match way {
            0 => fs::rename(&path, self.store.join(&other)),
            1 if plain => writable(&path).and_then(|file| file.set_len(at)),
            2 if plain => writable(&path).and_then(|file| file.set_len(length + at)),
            3 if plain => {
                let bytes = self.next().to_le_bytes();
                writable(&path).and_then(|file| file.write_all_at(&bytes, at))
            }
            4 => fs::remove_file(&path),
            5..=10 | 12 | 13 => {
                let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
                self.put_instead(way, &path, &source, &self.store.join(&other))
            }
            11 if plain => fs::set_permissions(&path, fs::Permissions::from_mode(0o000)),
            // An intact file takes its place in one step.
            14 => {
                let fresh = self.store.join(".vmstore/fresh");
                fs::copy(&source, &fresh).and_then(|_| fs::rename(&fresh, &path))
            }
            15 => {
                let (own, away) = (self.store.join(".vmstore"), self.store.join("away"));
                fs::rename(&own, &away).and_then(|()| symlink(self.outside.join(".vmstore"), &own))
            }
            16 => fs::rename(self.store.join("away"), self.store.join("ram")),
            _ => Ok(()),
        };
    }

    /// Puts something else in the place of a file that was removed. `source` is the intact file outside of the
    /// store, `other` another file of the store.
    fn put_instead(
        &self,
        way: u64,
        path: &Path,
        source: &Path,
        other: &Path,
    ) -> std::io::Result<()> {
        let sentinel = self.outside.join("sentinel");
        match way {
            // A store that follows this link finds an intact file.
            5 => symlink(source, path),
            6 => symlink(sentinel, path),
            7 => symlink(path.file_name().unwrap(), path),
            8 => Command::new("mkfifo")
                .arg(path)
                .stderr(Stdio::null())
                .status()
                .map(drop),
            9 => UnixListener::bind(path).map(drop),
            10 => fs::create_dir(path),
            12 => fs::hard_link(other, path),
            _ => fs::hard_link(sentinel, path),
        }
    }

    /// Restores the whole store, file after file.
    fn mend(&self) {
        for entry in fs::read_dir(&self.store).unwrap().flatten() {
            let path = entry.path();
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
        copy(&self.outside, &self.store);
    }

    /// Changes and restores the store until a process ends.
    fn besiege(&mut self, mut victim: Child) -> std::process::Output {
        while victim.try_wait().unwrap().is_none() {
            self.mend();
            let breath = Duration::from_micros(self.below(8000));
            std::thread::sleep(breath);
            for _ in 0..self.below(8) {
                self.change();
                let pause = Duration::from_micros(self.below(400));
                std::thread::sleep(pause);
            }
        }
        victim.wait_with_output().unwrap()
    }
}

/// Copies a store without the sentinel.
fn copy(from: &Path, to: &Path) {
    let _ = fs::create_dir(to.join(".vmstore"));
    for under in [".", ".vmstore"] {
        for entry in fs::read_dir(from.join(under)).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let place = to.join(under).join(&name);
            if let Ok(target) = fs::read_link(&path) {
                let _ = symlink(target, place);
            } else if path.is_file() && name != "sentinel" {
                // The library may be working here. A file that it has made in the meantime stays.
                if let Ok(mut new) = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(place)
                {
                    let _ = std::io::copy(&mut fs::File::open(&path).unwrap(), &mut new);
                }
            }
        }
    }
}

/// All files below a directory with their bytes.
fn everything(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for under in [".", ".vmstore"] {
        for entry in fs::read_dir(directory.join(under)).unwrap().flatten() {
            if entry.path().is_file() {
                all.push((entry.path(), fs::read(entry.path()).unwrap()));
            }
        }
    }
    all.sort();
    all
}

fn siege(directory: &Path, beset: &Path) -> Mutator {
    let (store, outside) = (directory.join("store"), directory.join("outside"));
    fs::create_dir(&store).unwrap();
    run(Command::new(beset).arg("make").arg(&outside));
    fs::write(outside.join("sentinel"), b"nobody's business").unwrap();
    Mutator {
        random: setting("VMSTORE_SEED", 1),
        store,
        outside,
        cut: None,
        done: [0; WAYS as usize],
    }
}

/// Checks that a trace opens nothing outside of the store, from the first round on. Returns the number of opens, and the
/// number of other calls with names.
fn check_trace(log: &str, store: &Path) -> (u64, u64) {
    let store = store.to_str().unwrap();
    let inside = |path: &str| {
        path == store
            || path.strip_prefix(store).is_some_and(|rest| rest.starts_with('/'))
            // The library reads facts about the host there.
            || path.starts_with("/proc/")
            || path.starts_with("/sys/")
    };
    let (mut opens, mut others) = (0, 0);
    let rounds = log.split_once("the rounds begin").expect("they began").1;
    for line in rounds.lines().skip(1) {
        let Some((call, rest)) = line.split_once('(') else {
            continue;
        };
        if call.ends_with("openat") || call.ends_with("open") || call.ends_with("openat2") {
            opens += 1;
            // openat(3</store>, "name", ...) = 5</store/name>
            if let Some((_, descriptor)) = line.rsplit_once(" = ") {
                if let Some((_, path)) = descriptor.split_once('<') {
                    let path = path.trim_end_matches(" (deleted)").trim_end_matches('>');
                    let path = path
                        .split('<')
                        .next()
                        .unwrap()
                        .trim_end_matches("(deleted)");
                    assert!(inside(path), "opened outside of the store: {line}");
                }
            }
        } else {
            others += 1;
            assert!(
                !call.ends_with("execve") && !call.ends_with("truncate"),
                "{line}"
            );
        }
        // Names below the store's descriptors must not lead out of it.
        let mut parts = rest.split('"');
        while let (Some(before), Some(name)) = (parts.next(), parts.next()) {
            if before.contains(&format!("<{store}")) && !call.ends_with("symlinkat") {
                let up = name == ".." || name.contains('/');
                assert!(!up, "a name that leads away: {line}");
            }
        }
    }
    (opens, others)
}

#[test]
fn a_directory_that_others_change_does_no_harm() {
    let directory = scratch();
    let beset = program(directory.path(), "beset");
    let mut mutator = siege(directory.path(), &beset);
    let untouched = everything(&mutator.outside);
    let log = directory.path().join("log");
    let rounds = 1000 * setting("VMSTORE_LONG", 1);
    let calls = "trace=%file,creat,openat2,linkat,renameat,renameat2,symlinkat,unlinkat,mkdirat";
    let victim = Command::new("timeout")
        .args(["--signal=ABRT", &format!("{}", 300 + rounds)])
        .arg(strace().get_program())
        .args([
            "-f",
            "-qq",
            "-y",
            "--seccomp-bpf",
            "-s",
            "4096",
            "-e",
            calls,
            "-o",
        ])
        .arg(&log)
        .arg(&beset)
        .arg("endure")
        .arg(&mutator.store)
        .arg(rounds.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = mutator.besiege(victim);
    assert!(
        output.status.success(),
        "seed {}: {}",
        setting("VMSTORE_SEED", 1),
        text(&output)
    );
    let (opens, others) = check_trace(&fs::read_to_string(log).unwrap(), &mutator.store);
    assert!(
        everything(&mutator.outside) == untouched,
        "a file outside was changed"
    );
    let changes: u64 = mutator.done.iter().sum();
    let said = text(&output);
    // The output is "opened 1000 times: mapped 1790, verified ...". Each kind of call must have succeeded sometimes.
    let wanted = [
        ("mapped", 20),
        ("verified", 50),
        ("read", 20),
        ("restored", 20),
        // A commit needs all files, so a change of any file stops it.
        ("committed", 250),
    ];
    for (kind, one_in) in wanted {
        let count = said.split(&format!("{kind} ")).nth(1).map(|rest| {
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
            digits.unwrap().parse::<u64>().unwrap()
        });
        assert!(
            count.is_some_and(|n| n >= rounds / one_in),
            "{kind}: {said}"
        );
    }
    println!(
        "{}; {changes} changes by another process, in each of {WAYS} ways; {opens} opens and {others} other calls on names, none \
         outside of the directory; no signal, no hang, no wrong byte",
        String::from_utf8_lossy(&output.stdout).trim()
    );
    assert!(
        mutator.done.iter().all(|count| *count > 10),
        "{:?}",
        mutator.done
    );
    assert!(opens > 20 * rounds && others > rounds);
}

#[test]
fn a_lazily_mapped_image_that_others_cut_is_sigbus_there_and_nowhere_else() {
    let directory = scratch();
    let beset = program(directory.path(), "beset");
    let mut mutator = siege(directory.path(), &beset);
    mutator.cut = Some("ram_Commit1");
    let rounds = 200 * setting("VMSTORE_LONG", 1);
    let victim = Command::new("timeout")
        .args(["--signal=ABRT", &format!("{}", 300 + rounds)])
        .arg(&beset)
        .arg("lazy")
        .arg(&mutator.store)
        .arg(rounds.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = mutator.besiege(victim);
    let seed = setting("VMSTORE_SEED", 1);
    assert!(output.status.success(), "seed {seed}: {}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{}", said.trim());
    assert!(
        !said.contains(" 0 with SIGBUS"),
        "no round ended with SIGBUS"
    );
}
