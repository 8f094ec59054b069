//! The C interface. Every function parses its arguments, calls the core, and turns the result
//! into a status. Panics stop here.
//!
//! There is one file for each noun of the header: it has the constants, the structs and the
//! functions of the noun. `tests/header.rs` generates the parts of `include/vmstore.h` from them, and
//! puts `preface.h` before the parts. `call` runs the body of every function, `handle` finds what a
//! handle stands for, and `convert` reads and writes the caller's pointers.
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

mod call;
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
