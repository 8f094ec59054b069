//! `cargo run --example minivmm`: compiles `examples/minivmm.c` and becomes that program.

use std::env;
use std::error::Error;

mod c_program;

fn main() -> Result<(), Box<dyn Error>> {
    c_program::become_program("minivmm", &["minivmm.c"], env::args_os().skip(1))
}
