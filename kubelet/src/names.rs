//! Labels and annotations of sandboxes and containers, by upstream's names, so that another kubelet can take over.

/// The Pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// The Pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The Pod's identity.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// The container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// What the container was made from.
pub const HASH: &str = "io.kubernetes.container.hash";
/// How often it was restarted before.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Where it leaves its last words.
pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Where to look for them otherwise.
pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// How long its end may take, in seconds.
pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// What to do before it ends, as JSON of a LifecycleHandler.
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// The file on the host of its last words (ours).
pub const MESSAGE_FILE: &str = "minik.local/termination-message-file";
