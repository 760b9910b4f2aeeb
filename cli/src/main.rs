//! minikctl: the command line.

fn main() {}
