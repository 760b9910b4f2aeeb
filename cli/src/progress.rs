//! Progress of long work on stderr: a spinner on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often the spinner turns.
const TURN_EVERY: Duration = Duration::from_millis(100);

/// Shows what is being done, step after step.
pub struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
}

impl Progress {
    /// Starts at the first step.
    pub fn start() -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TURN_EVERY);
            bar
        });
        Progress { bar, began: Instant::now() }
    }

    /// The next step begins.
    pub fn step(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{what} …")),
            None => eprintln!("{what} …"),
        }
    }

    /// All is done; `what` stays on the screen with the time that it took.
    pub fn done(self, what: &str) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{what} ({:.1} s)", self.began.elapsed().as_secs_f64());
    }
}
