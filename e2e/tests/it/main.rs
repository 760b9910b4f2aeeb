//! Whole-cluster tests: real programs, over the wire.

mod cluster;
mod controllers;
mod faults;
mod host_ports;
mod images;
mod kubectl;
mod minikctl;
mod nodes;
mod pending;
mod pods;
mod recorded_pods;
mod rollouts;
mod security;
mod services;
