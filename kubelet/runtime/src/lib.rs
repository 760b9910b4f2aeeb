//! The container runtime: images, snapshots, sandboxes, CNI, served as CRI v1.
