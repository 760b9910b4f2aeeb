//! Logs to standard error, as lines for people or JSON for programs.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of every service's log, by upstream's names.
#[derive(Debug, Clone, Args)]
pub struct TelemetryFlags {
    /// Log verbosity: 0 warnings and what matters, 2 steady state, 4 debug, 6 everything
    #[arg(short, long, default_value_t = 2, value_name = "LEVEL")]
    pub v: u8,
    /// Log format
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub logging_format: LogFormat,
}

impl Default for TelemetryFlags {
    fn default() -> Self {
        TelemetryFlags { v: 2, logging_format: LogFormat::Text }
    }
}

impl TelemetryFlags {
    /// Starts logging; `RUST_LOG` overrides the level. A second call changes nothing.
    pub fn init(&self) {
        let level = match self.v {
            0 | 1 => "warn",
            2 | 3 => "info",
            4 | 5 => "debug",
            _ => "trace",
        };
        let quiet =
            ["h2", "hyper", "rustls", "tower", "reqwest", "netlink_proto", "hickory_server", "hickory_net"];
        let quiet = quiet.map(|library| format!(",{library}=warn")).concat();
        let quiet = format!("{level}{quiet},hickory_resolver=warn");
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(quiet));
        let lines =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
        // Only the first of several services in one process (tests) installs a subscriber.
        let _ = match self.logging_format {
            LogFormat::Text => lines.try_init(),
            LogFormat::Json => lines.json().try_init(),
        };
    }
}
