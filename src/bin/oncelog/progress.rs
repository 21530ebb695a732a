//! Bars on a terminal for what takes over a second. Nothing where standard error is no terminal.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use oncelog::{Phase, Progress};

use crate::time;

/// What is done sooner is not worth a bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bar that appears after a while.
pub(crate) struct Bar {
    begun: Duration,
    shown: Option<ProgressBar>,
}

impl Bar {
    pub(crate) fn new() -> Bar {
        Bar { begun: time::monotonic(), shown: None }
    }

    pub(crate) fn tell(&mut self, what: &str, done: u64, total: u64) {
        if self.shown.is_none() {
            if !stderr().is_terminal() || time::monotonic() - self.begun < PATIENCE {
                return;
            }
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style =
                ProgressStyle::with_template("{msg:10} [{bar:40}] {percent:>3} %  {eta} left");
            bar.set_style(style.expect("the template is well-formed").progress_chars("#> "));
            self.shown = Some(bar);
        }
        if let Some(bar) = &self.shown {
            bar.set_length(total);
            bar.set_message(what.to_owned());
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

/// For [`oncelog::Options::progress`].
pub(crate) fn shown() -> impl Fn(Progress) + Send + Sync + 'static {
    let bar = Mutex::new((Bar::new(), None));
    move |progress| {
        let Ok(mut bar) = bar.lock() else { return };
        if bar.1.replace(progress.phase) != Some(progress.phase) {
            bar.0 = Bar::new();
        }
        let what = match progress.phase {
            Phase::Loading => "loading",
            Phase::Scanning => "scanning",
            Phase::Verifying => "verifying",
            Phase::Copying => "copying",
            _ => "working",
        };
        bar.0.tell(what, progress.done, progress.total);
        if progress.done == progress.total {
            bar.0 = Bar::new();
        }
    }
}
