//! Mounted file systems of any size.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;

/// A mounted file system, unmounted when it goes.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

impl Mounted {
    /// Makes a file system in `directory`: tmpfs, or another kind on a loop device.
    pub(crate) fn new(kind: &str, directory: &Path, megabytes: u64) -> Self {
        let at = directory.join(kind);
        std::fs::create_dir(&at).unwrap();
        let mut command = Command::new("mount");
        if kind == "tmpfs" {
            let size = format!("size={megabytes}m");
            command.args(["-t", "tmpfs", "-o", &size, "tmpfs"]);
        } else {
            let image = directory.join(format!("{kind}.image"));
            let file = File::create(&image).unwrap();
            file.set_len(megabytes << 20).unwrap();
            let arguments: &[&str] = match kind {
                "ext4" => &["-q", "-F", "-m", "0", "-b", "4096"],
                "btrfs" => &["-q", "-f", "--mixed"],
                _ => &["-q", "-f"],
            };
            run(Command::new(format!("mkfs.{kind}"))
                .args(arguments)
                .arg(&image));
            command.args(["-o", "loop"]).arg(image);
        }
        command.arg(&at);
        run(&mut command);
        Self(at)
    }
}
