//! The shim: starts containers, owns them, is the pause process. No tokio, no TLS.

fn main() {}
