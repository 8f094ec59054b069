//! Progress of long calls: a bar on stderr, shown after one second and only on a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long a call may take before its bar appears.
const DELAY: Duration = Duration::from_secs(1);

/// A progress bar that is not shown before [`DELAY`].
pub(crate) struct Bar {
    what: &'static str,
    begun: Instant,
    wanted: bool,
    shown: Option<ProgressBar>,
}

/// Makes a call of the library that reports progress, and shows the progress in a bar.
pub(crate) fn with_bar<T>(
    what: &'static str,
    quiet: bool,
    call: impl FnOnce(vmstore::Progress<'_>) -> T,
) -> T {
    let mut bar = Bar::new(what, quiet);
    call(Some(&mut |done, total| {
        bar.update(done, total);
        true
    }))
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

    /// Shows that `done` of `total` bytes are done.
    pub(crate) fn update(&mut self, done: u64, total: u64) {
        if !self.wanted || self.begun.elapsed() < DELAY || total == 0 {
            return;
        }
        let bar = self.shown.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            let form = "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
            let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar.set_message(self.what);
            bar.with_elapsed(DELAY)
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
