//! The C interface. Every function parses its arguments, calls the core, and turns the result
//! into a status. Panics stop here.
//!
//! There is one file for each noun of the header: it has the constants, the structs and the
//! functions of the noun. `tests/header.rs` generates the parts of `include/vmstore.h` from them, and
//! puts `preface.h` before the parts. `convert` reads and writes the caller's pointers.
//!
//! One of the two rooms with `unsafe`. Here it is for pointers from C. The C caller vouches for them
//! under the rules of the header. Handles are never dereferenced (see `handle`).

#![allow(
    unsafe_code,
    non_camel_case_types,
    clippy::missing_safety_doc,
    clippy::doc_markdown
)]
#![allow(
    clippy::not_unsafe_ptr_arg_deref,
    clippy::must_use_candidate,
    clippy::similar_names
)]
#![allow(
    unreachable_pub,
    reason = "what C sees is public, in modules that Rust does not see"
)]

mod commit;
mod convert;
mod delete;
mod errors;
mod handle;
mod history;
mod module;
mod persist;
mod status;
mod store;
mod tracking;
mod transfer;
mod verify;

use std::borrow::Cow;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Capture, Error, Module, Result, Store};

/// Runs the body of an exported function: no panic leaves it, and its failure becomes this
/// thread's last error.
fn guard(function: &'static str, body: impl FnOnce(&mut Call) -> Result<()>) -> c_int {
    let mut call = Call {
        store: None,
        opening: None,
        into: None,
    };
    let error = match catch_unwind(AssertUnwindSafe(|| body(&mut call))) {
        Ok(Ok(())) => return status::VMSTORE_OK,
        Ok(Err(error)) => error,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without text");
            Error::Internal {
                what: text.to_owned(),
            }
        }
    };
    errors::set(function, call.place(&error).as_deref(), &error);
    status::of(&error)
}

/// A call on its way: finds what its handles stand for, and so knows which store it is about.
struct Call {
    store: Option<Store>,
    /// The directory of a store that is not open yet.
    opening: Option<String>,
    /// The directory that is written to, where that is not the store's.
    into: Option<String>,
}

impl Call {
    /// The store that the text of a failure has to name, beside what the error says itself.
    fn place(&self, error: &Error) -> Option<Cow<'_, str>> {
        let opening = self.opening.as_deref().filter(|path| match error {
            // Files are named as they are within the store.
            Error::Corrupt { .. } | Error::Version { .. } | Error::NoMemory { .. } => true,
            Error::Io { operation, .. } | Error::Sync { operation, .. } => {
                !operation.contains(&format!("({path}"))
            }
            Error::ReadOnly { what, .. } => !what.contains(&format!("({path}")),
            _ => false,
        });
        let place = self.store.as_ref().map(Store::path).or(opening)?;
        Some(match &self.into {
            Some(into) => format!("{place}, into {into}").into(),
            None => place.into(),
        })
    }

    fn store(&mut self, handle: *const store::vmstore) -> Result<Store> {
        let store = handle::store(handle)?;
        self.store = Some(store.clone());
        Ok(store)
    }

    fn module(&mut self, handle: *const module::vmstore_module) -> Result<Module> {
        let module = handle::module(handle)?;
        self.store = Some(module.store().clone());
        Ok(module)
    }

    fn capture(&mut self, handle: *const commit::vmstore_capture) -> Result<Capture> {
        let capture = handle::capture(handle)?;
        self.store = Some(capture.store().clone());
        Ok(capture)
    }
}
