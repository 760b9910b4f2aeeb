//! Clients of the Kubernetes API: kubeconfig, shared informers, work queues, leader election, event recorder.
