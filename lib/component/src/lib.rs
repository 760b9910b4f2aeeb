//! Process plumbing: flags, telemetry, metrics and health endpoints, TLS, clock, shutdown.
