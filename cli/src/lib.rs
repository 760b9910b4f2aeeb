//! minikctl: the command line.
