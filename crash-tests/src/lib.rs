//! This crate holds tests only.
