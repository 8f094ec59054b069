//! Module commit files. An image is a base image. A delta is a layer on the module commit below it.
//!
//! [`LayerFiles`] opens and checks the files of a store, and caches their indexes. [`Draft`] writes
//! a new module commit. [`rewrite_layer`] writes a module commit again, on another parent or as an
//! image. [`Reading`] reads pages and checks them. [`PageTable`] says for each page of a module
//! which file holds the page.

#![forbid(unsafe_code)]

mod chain;
mod check;
mod files;
mod read;
mod rewrite;
mod staging;
mod table;
mod write;

#[cfg(test)]
mod tests;

pub(crate) use chain::{Change, runs_of, source_runs};
pub(crate) use check::check_is;
pub(crate) use files::{LayerFiles, place};
pub(crate) use read::{Piece, Reading};
pub(crate) use rewrite::{pages_of, rewrite_layer};
pub(crate) use staging::Staging;
pub(crate) use table::PageTable;
pub(crate) use write::{Draft, Finished};
