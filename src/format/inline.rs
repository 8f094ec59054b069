//! The record with inline files. It holds the files of small commits. One sync of the journal makes
//! such commits durable.

use super::bytes::{Reader, Writer};
use super::name;
use crate::Result;
use crate::error::try_vec;

/// The record's type. The record has the sequence number of the record before it.
pub(crate) const KIND: u16 = 5;

/// A whole module commit file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InlineFile {
    pub(crate) module: String,
    pub(crate) commit: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The payload. Once this record is durable, all records up to sequence number `upto` are durable
/// too: the records are in the journal, and the files that were written since the last record of
/// this type are in `files`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InlineFiles {
    pub(crate) upto: u64,
    pub(crate) files: Vec<InlineFile>,
}

impl InlineFiles {
    /// The length of the payload.
    pub(crate) fn length(&self) -> usize {
        let files = self.files.iter();
        12 + files
            .map(|file| 18 + file.module.len() + file.bytes.len())
            .sum::<usize>()
    }

    /// Appends the payload.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        let mut w = Writer(bytes);
        w.u64(self.upto).u32(self.files.len() as u32);
        for file in &self.files {
            w.text(&file.module)
                .u64(file.commit)
                .u64(file.bytes.len() as u64);
            w.bytes(&file.bytes);
        }
    }

    /// Decodes a payload whose checksum matches. The inner error says what is wrong with the
    /// payload.
    pub(crate) fn decode(payload: &[u8]) -> Result<std::result::Result<Self, &'static str>> {
        let mut r = Reader(payload);
        let (Some(upto), Some(count)) = (r.u64(), r.u32()) else {
            return Ok(Err("the payload is too short"));
        };
        let mut files = Vec::new();
        for _ in 0..count {
            let file = (|| Some((r.text()?, r.u64()?, r.u64()?)))();
            let Some((module, commit, length)) = file else {
                return Ok(Err("an inline file is cut off"));
            };
            if name::check_module_id(module).is_err() || commit == 0 {
                return Ok(Err(
                    "an inline file has a module id or a commit number that is not allowed",
                ));
            }
            let Some(content) = usize::try_from(length).ok().and_then(|n| r.take(n)) else {
                return Ok(Err("an inline file is cut off"));
            };
            let mut bytes = try_vec(content.len(), "an inline file of the journal")?;
            bytes.extend_from_slice(content);
            files.push(InlineFile {
                module: module.to_owned(),
                commit,
                bytes,
            });
        }
        if !r.is_empty() {
            return Ok(Err("bytes follow its last file"));
        }
        Ok(Ok(Self { upto, files }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_survives_and_a_wrong_length_is_refused() {
        let file = |module: &str, commit, length| InlineFile {
            module: module.into(),
            commit,
            bytes: (0..length).map(|byte| byte as u8).collect(),
        };
        let inline = InlineFiles {
            upto: 7,
            files: vec![file("ram", 5, 600), file("vram", 6, 0), file("ram", 7, 513)],
        };
        let mut bytes = Vec::new();
        inline.encode(&mut bytes);
        assert_eq!(bytes.len(), inline.length());
        assert_eq!(InlineFiles::decode(&bytes).unwrap().unwrap(), inline);
        for cut in 0..bytes.len() {
            assert!(
                InlineFiles::decode(&bytes[..cut]).unwrap().is_err(),
                "{cut}"
            );
        }
        bytes.push(0);
        assert!(InlineFiles::decode(&bytes).unwrap().is_err());
    }

    #[test]
    fn a_name_that_leaves_the_directory_is_refused() {
        for module in ["..", "a/b", "commits", ""] {
            let mut bytes = Vec::new();
            let files = vec![InlineFile {
                module: module.into(),
                commit: 1,
                bytes: Vec::new(),
            }];
            InlineFiles { upto: 1, files }.encode(&mut bytes);
            assert!(InlineFiles::decode(&bytes).unwrap().is_err(), "{module}");
        }
    }
}
