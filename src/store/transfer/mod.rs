//! Taking commits to other stores: export, import, and clones.

mod clone;
mod export;
mod import;
mod install;

#[cfg(test)]
mod tests;
