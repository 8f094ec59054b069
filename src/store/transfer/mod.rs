//! Taking commits elsewhere: streams out and in, and clones.

mod clone;
mod export;
mod import;
mod install;

#[cfg(test)]
mod tests;
