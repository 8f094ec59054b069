//! Linux primitives, and nothing else: files, memory, userfaultfd, the page map.
//!
//! One of the two rooms with `unsafe`: here it is for system calls and for copies to and from
//! guest memory. No reference to guest memory is ever made: the guest writes to it whenever it
//! likes, so it is only ever copied, through raw pointers, after a bounds check.

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
