//! Progress of what takes long: a bar on stderr after a second, where that is a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that stays away for the first second.
pub(crate) struct Bar {
    what: &'static str,
    begun: Instant,
    wanted: bool,
    shown: Option<ProgressBar>,
}

impl Bar {
    pub(crate) fn new(what: &'static str, quiet: bool) -> Self {
        Self {
            what,
            begun: Instant::now(),
            wanted: !quiet && std::io::stderr().is_terminal(),
            shown: None,
        }
    }

    /// Bytes done and to do.
    pub(crate) fn tell(&mut self, done: u64, total: u64) {
        if !self.wanted || self.begun.elapsed() < Duration::from_secs(1) || total == 0 {
            return;
        }
        let bar = self.shown.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            let form = "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
            let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar.set_message(self.what);
            bar.with_elapsed(Duration::from_secs(1))
        });
        bar.set_length(total);
        bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
