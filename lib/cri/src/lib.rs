//! The container runtime interface (CRI v1): generated types and a unix-socket client.
