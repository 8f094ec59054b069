//! Embedded stores that make the same pages durable. Each uses the configuration that its documentation recommends
//! for this work. The key is the number of a page, the value is the page.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use heed::byteorder::BigEndian;
use heed::types::{Bytes, U64};
use redb::ReadableDatabase as _;

use crate::machine::page_size;
use crate::memory::{self, Region};

/// A store that takes pages in one transaction, and returns when they are durable.
pub trait Peer {
    fn name(&self) -> &'static str;
    /// Commits the pages of `pages` that lie packed in `packed`.
    fn commit(&mut self, pages: &[usize], packed: &[u8]);
    /// Reads a page, for a check that the peer has it.
    fn page(&self, page: usize) -> Vec<u8>;
}

/// The peers that this build has, each with a whole module in it.
pub fn all(directory: &Path, module: &[u8]) -> Vec<Box<dyn Peer>> {
    let mut peers: Vec<Box<dyn Peer>> = vec![
        Box::new(Lmdb::new(&directory.join("lmdb"), module.len())),
        Box::new(Sqlite::new(&directory.join("sqlite"))),
        Box::new(Redb::new(&directory.join("redb"))),
        #[cfg(feature = "rocksdb")]
        Box::new(Rocks::new(&directory.join("rocksdb"))),
        Box::new(Msync::new(&directory.join("msync"), module.len())),
    ];
    let pages: Vec<usize> = (0..module.len() / page_size()).collect();
    for peer in &mut peers {
        for (pages, packed) in pages.chunks(8192).zip(module.chunks(8192 * page_size())) {
            peer.commit(pages, packed);
        }
    }
    peers
}

pub const CONFIGURATIONS: &[&str] = &[
    "LMDB (heed): map of 4 x the module, one unnamed database with integer-ordered keys, default (full) durability, which syncs twice for \
     each commit. NOSYNC and NOMETASYNC would lose commits. WRITEMAP is left out: a stray write of the VMM could damage the file",
    "SQLite (rusqlite, bundled): WAL, synchronous=FULL (needed for durable commits), pages of 4096 bytes, 512 MiB of cache, statements prepared once, \
     a checkpoint for each 64 MiB of log instead of each 4 MiB, so most commits do not pay for one",
    "redb: Durability::Immediate (default), 1 GiB of cache, one table of u64 to bytes",
    "RocksDB: one WriteBatch with sync=true into the log, no compression, 256 MiB memtables, compaction in its background threads (--features rocksdb)",
    "mmap + msync: a shared mapping of a file, MS_SYNC over the one page, or over the whole mapping for more pages. Not atomic: a power \
     cut may leave only some of the pages",
];

struct Lmdb {
    env: heed::Env,
    pages: heed::Database<U64<BigEndian>, Bytes>,
}

impl Lmdb {
    fn new(path: &Path, length: usize) -> Self {
        fs::create_dir(path).expect("a directory");
        // SAFETY: nobody else has this new directory.
        let env = unsafe {
            heed::EnvOpenOptions::new()
                .map_size(length * 4 + (1 << 28))
                .open(path)
        };
        let env = env.expect("LMDB opens");
        let mut txn = env.write_txn().expect("a transaction");
        let pages = env.create_database(&mut txn, None).expect("a database");
        txn.commit().expect("a commit");
        Self { env, pages }
    }
}

impl Peer for Lmdb {
    fn name(&self) -> &'static str {
        "LMDB"
    }

    fn commit(&mut self, pages: &[usize], packed: &[u8]) {
        let mut txn = self.env.write_txn().expect("a transaction");
        for (page, bytes) in pages.iter().zip(packed.chunks(page_size())) {
            self.pages
                .put(&mut txn, &(*page as u64), bytes)
                .expect("a put");
        }
        txn.commit().expect("a commit");
    }

    fn page(&self, page: usize) -> Vec<u8> {
        let txn = self.env.read_txn().expect("a transaction");
        let bytes = self.pages.get(&txn, &(page as u64)).expect("a get");
        bytes.expect("the page").to_vec()
    }
}

struct Sqlite(rusqlite::Connection);

impl Sqlite {
    fn new(path: &Path) -> Self {
        let db = rusqlite::Connection::open(path).expect("SQLite opens");
        db.execute_batch(
            "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-524288;
             PRAGMA wal_autocheckpoint=16384; CREATE TABLE pages (number INTEGER PRIMARY KEY, bytes BLOB NOT NULL);",
        )
        .expect("a schema");
        Self(db)
    }
}

impl Peer for Sqlite {
    fn name(&self) -> &'static str {
        "SQLite"
    }

    fn commit(&mut self, pages: &[usize], packed: &[u8]) {
        let txn = self.0.transaction().expect("a transaction");
        {
            let mut put = txn
                .prepare_cached("INSERT INTO pages VALUES (?1, ?2) ON CONFLICT DO UPDATE SET bytes = excluded.bytes")
                .expect("a statement");
            for (page, bytes) in pages.iter().zip(packed.chunks(page_size())) {
                put.execute((*page as i64, bytes)).expect("a put");
            }
        }
        txn.commit().expect("a commit");
    }

    fn page(&self, page: usize) -> Vec<u8> {
        let sql = "SELECT bytes FROM pages WHERE number = ?1";
        self.0
            .query_row(sql, [page as i64], |row| row.get(0))
            .expect("the page")
    }
}

const REDB: redb::TableDefinition<u64, &[u8]> = redb::TableDefinition::new("pages");

struct Redb(redb::Database);

impl Redb {
    fn new(path: &Path) -> Self {
        Self(
            redb::Builder::new()
                .set_cache_size(1 << 30)
                .create(path)
                .expect("redb opens"),
        )
    }
}

impl Peer for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn commit(&mut self, pages: &[usize], packed: &[u8]) {
        let txn = self.0.begin_write().expect("a transaction");
        {
            let mut table = txn.open_table(REDB).expect("a table");
            for (page, bytes) in pages.iter().zip(packed.chunks(page_size())) {
                table.insert(*page as u64, bytes).expect("a put");
            }
        }
        txn.commit().expect("a commit");
    }

    fn page(&self, page: usize) -> Vec<u8> {
        let txn = self.0.begin_read().expect("a transaction");
        let table = txn.open_table(REDB).expect("a table");
        table
            .get(page as u64)
            .expect("a get")
            .expect("the page")
            .value()
            .to_vec()
    }
}

#[cfg(feature = "rocksdb")]
struct Rocks(rocksdb::DB);

#[cfg(feature = "rocksdb")]
impl Rocks {
    fn new(path: &Path) -> Self {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.set_compression_type(rocksdb::DBCompressionType::None);
        options.set_write_buffer_size(256 << 20);
        options.set_max_background_jobs(2);
        Self(rocksdb::DB::open(&options, path).expect("RocksDB opens"))
    }
}

#[cfg(feature = "rocksdb")]
impl Peer for Rocks {
    fn name(&self) -> &'static str {
        "RocksDB"
    }

    fn commit(&mut self, pages: &[usize], packed: &[u8]) {
        let mut batch = rocksdb::WriteBatch::default();
        for (page, bytes) in pages.iter().zip(packed.chunks(page_size())) {
            batch.put((*page as u64).to_be_bytes(), bytes);
        }
        let mut options = rocksdb::WriteOptions::default();
        options.set_sync(true);
        self.0.write_opt(batch, &options).expect("a commit");
    }

    fn page(&self, page: usize) -> Vec<u8> {
        self.0
            .get((page as u64).to_be_bytes())
            .expect("a get")
            .expect("the page")
    }
}

struct Msync(Region);

impl Msync {
    fn new(path: &Path, length: usize) -> Self {
        let file = File::create_new(path).expect("a file");
        file.set_len(length as u64).expect("its length");
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("the file");
        Self(Region::shared(&file, length))
    }
}

impl Peer for Msync {
    fn name(&self) -> &'static str {
        "msync"
    }

    fn commit(&mut self, pages: &[usize], packed: &[u8]) {
        let page = page_size();
        for (at, bytes) in pages.iter().zip(packed.chunks(page)) {
            // SAFETY: the page is inside the mapping.
            unsafe {
                self.0
                    .base
                    .add(at * page)
                    .copy_from_nonoverlapping(bytes.as_ptr(), page)
            };
        }
        let (from, to) = match pages {
            [only] => (*only, only + 1),
            _ => (0, self.0.length / page),
        };
        // SAFETY: the range is inside the mapping.
        let synced = unsafe {
            libc::msync(
                self.0.base.add(from * page).cast(),
                (to - from) * page,
                libc::MS_SYNC,
            )
        };
        assert_eq!(synced, 0, "{}", std::io::Error::last_os_error());
    }

    fn page(&self, page: usize) -> Vec<u8> {
        self.0.bytes()[page * page_size()..][..page_size()].to_vec()
    }
}

/// The file operations of a commit, without a store.
pub struct Floors {
    directory: PathBuf,
    handle: File,
    log: File,
    record: u64,
    tail: u64,
    number: u64,
    appended: File,
}

impl Floors {
    pub fn new(directory: &Path) -> Self {
        fs::create_dir(directory).expect("a directory");
        let new = |name| File::create_new(directory.join(name)).expect("a file");
        let (log, appended) = (new("log"), new("appended"));
        Self {
            directory: directory.to_path_buf(),
            handle: File::open(directory).expect("the directory"),
            log,
            record: 0,
            tail: 0,
            number: 0,
            appended,
        }
    }

    /// Appends to one file and makes this durable: no new name, no second file.
    pub fn append(&mut self, packed: &[u8]) {
        self.appended
            .write_all_at(packed, self.tail)
            .expect("a write");
        self.tail += packed.len() as u64;
        self.appended.sync_data().expect("a sync");
    }

    /// A new file with these bytes, under its name.
    pub fn create(&mut self, packed: &[u8]) -> File {
        let new = self.directory.join("new");
        let file = File::create_new(&new).expect("a file");
        file.write_all_at(packed, 0).expect("a write");
        self.number += 1;
        fs::rename(new, self.directory.join(self.number.to_string())).expect("a name");
        file
    }

    /// A record of a commit that survives a kill.
    pub fn note(&mut self) {
        self.log
            .write_all_at(&[1; 200], 200 * self.record)
            .expect("a write");
        self.record += 1;
    }

    pub fn sync_names(&self) {
        self.handle.sync_all().expect("a sync of the directory");
    }

    /// Syncs the record that makes the commit durable.
    pub fn sync_record(&mut self) {
        self.note();
        self.log.sync_data().expect("a sync");
    }
}

/// Checks that a peer has the pages that it took.
pub fn check(peer: &dyn Peer, pages: &[usize], base: *const u8) {
    let page = page_size();
    let one = Region::anonymous(page);
    for at in [pages[0], pages[pages.len() - 1]] {
        memory::gather(base, &[at], &one);
        assert_eq!(
            peer.page(at),
            one.bytes(),
            "{} has another page {at}",
            peer.name()
        );
    }
}
