//! Linux primitives: files, memory, userfaultfd, the page map.
//!
//! This is one of the two rooms with `unsafe`. It needs `unsafe` for system calls and for copies
//! from and to guest memory. The guest can write to its memory at any time, so no reference to
//! guest memory is ever made. Its bytes are copied through raw pointers, after a bounds check.

#![allow(unsafe_code)]

pub(crate) mod arena;
mod descriptor;
pub(crate) mod fork;
pub(crate) mod fs;
pub(crate) mod host;
pub(crate) mod mappings;
pub(crate) mod memfd;
pub(crate) mod memory;
pub(crate) mod pagemap;
pub(crate) mod pipe;
mod realfile;
pub(crate) mod realfs;
pub(crate) mod temporary;
pub(crate) mod threads;
pub(crate) mod userfault;
