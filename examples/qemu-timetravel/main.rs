//! `cargo run --example qemu-timetravel`: fetches QEMU and a guest from Debian with `fetch.sh`, into
//! `target/qemu-timetravel`, compiles `timetravel.c`, and becomes that program. `$QEMU`, `$KERNEL` and
//! `$BUSYBOX` name other files to use.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

#[path = "../c_program/mod.rs"]
mod c_program;

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/qemu-timetravel");
    let program = env::current_exe()?;
    let cache = program
        .ancestors()
        .nth(3)
        .ok_or("this program is not in target/PROFILE/examples")?
        .join("qemu-timetravel");
    let status = Command::new("sh")
        .arg(here.join("fetch.sh"))
        .arg(&cache)
        .status()
        .map_err(|error| format!("sh does not start: {error}"))?;
    if !status.success() {
        return Err(format!("fetch.sh ended with {status}").into());
    }
    let named = |variable: &str, or: OsString| {
        env::var_os(variable)
            .filter(|it| !it.is_empty())
            .unwrap_or(or)
    };
    let arguments = [
        named("QEMU", "qemu-system-x86_64".into()),
        named("KERNEL", cache.join("vmlinuz").into()),
        cache.join("initramfs").into(),
    ];
    let sources = ["qemu-timetravel/timetravel.c", "qemu-timetravel/qemu.c"];
    c_program::become_program(
        "qemu-timetravel",
        &sources,
        arguments.into_iter().chain(env::args_os().skip(1)),
    )
}
