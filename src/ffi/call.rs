//! One call from C: no panic leaves it, and its failure becomes a status and a text.

use std::borrow::Cow;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::handle::{self, vmstore, vmstore_capture, vmstore_module};
use super::{errors, status};
use crate::{Capture, Error, Module, Result, Store};

/// Runs the body of an exported function: no panic leaves it, and its failure becomes this
/// thread's last error.
pub(super) fn guard(function: &'static str, body: impl FnOnce(&mut Call) -> Result<()>) -> c_int {
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
pub(super) struct Call {
    store: Option<Store>,
    /// The directory of a store that is not open yet.
    pub(super) opening: Option<String>,
    /// The directory that is written to, where that is not the store's.
    pub(super) into: Option<String>,
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

    pub(super) fn store(&mut self, handle: *const vmstore) -> Result<Store> {
        let store = handle::store(handle)?;
        self.store = Some(store.clone());
        Ok(store)
    }

    pub(super) fn module(&mut self, handle: *const vmstore_module) -> Result<Module> {
        let module = handle::module(handle)?;
        self.store = Some(module.store().clone());
        Ok(module)
    }

    pub(super) fn capture(&mut self, handle: *const vmstore_capture) -> Result<Capture> {
        let capture = handle::capture(handle)?;
        self.store = Some(capture.store().clone());
        Ok(capture)
    }
}
