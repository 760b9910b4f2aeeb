//! The multi-call binary: dispatch only.

fn main() {}
