//! The record that makes small commits durable at once: their files, carried in the journal.

use super::bytes::{Reader, Writer};
use super::name;
use crate::Result;
use crate::error::try_vec;

/// The record's type. It has no number of its own: it has that of the record before it.
pub(crate) const KIND: u16 = 5;

/// A module commit's file, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InlineFile {
    pub(crate) module: String,
    pub(crate) commit: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The records up to one are durable together with it: what they say is in the journal, and the files that they
/// brought since the last such record are in it.
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

    /// Decodes a payload whose checksum held. The inner error says what is wrong with it.
    pub(crate) fn decode(payload: &[u8]) -> Result<std::result::Result<Self, &'static str>> {
        let mut r = Reader(payload);
        let (Some(upto), Some(count)) = (r.u64(), r.u32()) else {
            return Ok(Err("it is too short"));
        };
        let mut files = Vec::new();
        for _ in 0..count {
            let file = (|| Some((r.text()?, r.u64()?, r.u64()?)))();
            let Some((module, commit, length)) = file else {
                return Ok(Err("a file in it is cut off"));
            };
            if name::check_module_id(module).is_err() || commit == 0 {
                return Ok(Err("a file in it has a name that no module commit has"));
            }
            let Some(content) = usize::try_from(length).ok().and_then(|n| r.take(n)) else {
                return Ok(Err("a file in it is cut off"));
            };
            let mut bytes = try_vec(content.len(), "a file in the journal")?;
            bytes.extend_from_slice(content);
            files.push(InlineFile {
                module: module.to_owned(),
                commit,
                bytes,
            });
        }
        if !r.is_empty() {
            return Ok(Err("bytes behind its last file"));
        }
        Ok(Ok(Self { upto, files }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_and_refuses_every_cut_and_what_is_too_long() {
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
