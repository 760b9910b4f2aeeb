//! Gives each Pod a worker: level-triggered, from the store of Pods.

use crate::admit::admit;
use crate::events::PodEvents;
use crate::node::NodeObject;
use crate::pod::{PodObject, Uid};
use crate::runtime::{RuntimePod, orphan_pods};
use crate::worker::{Context, Mailbox, Worker};
use minik_client::EventType::Warning;
use minik_client::{Informer, ObjectKey};
use minik_component::Shutdown;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// The workers' mailboxes, to be told that something has happened.
#[derive(Clone, Default)]
pub struct Mailboxes(Arc<Mutex<BTreeMap<Uid, Arc<Mailbox>>>>);

impl Mailboxes {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Uid, Arc<Mailbox>>> {
        // Each change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mailbox of a Pod.
    pub fn get(&self, uid: &str) -> Option<Arc<Mailbox>> {
        self.lock().get(uid).cloned()
    }

    /// All mailboxes.
    pub fn all(&self) -> Vec<Arc<Mailbox>> {
        self.lock().values().cloned().collect()
    }

    /// Something has happened to a Pod.
    pub fn look(&self, uid: &str) {
        if let Some(mailbox) = self.get(uid) {
            mailbox.look();
        }
    }

    /// Something may have happened to any Pod.
    pub fn look_all(&self) {
        for mailbox in self.all() {
            mailbox.look();
        }
    }
}

/// Gives each Pod a worker.
pub struct Dispatcher {
    /// What workers share.
    pub context: Arc<Context>,
    /// The Pods of this node.
    pub pods: Informer<PodObject>,
    /// This node.
    pub nodes: Informer<NodeObject>,
    /// Told when a Pod has changed.
    pub changed: Arc<Notify>,
    /// The workers' mailboxes.
    pub mailboxes: Mailboxes,
    /// The workers.
    pub workers: JoinSet<Uid>,
}

impl Dispatcher {
    /// Works until `shutdown`; containers run on.
    pub async fn run(mut self, shutdown: Shutdown) {
        self.turn();
        let mut orphans = true;
        loop {
            if orphans && self.adopt_orphans().await {
                orphans = false;
            }
            let retry = Duration::from_secs(if orphans { 1 } else { 3600 });
            // Cancel-safe: a notice that was not taken is kept, and so is a finished worker.
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.changed.notified() => self.turn(),
                Some(ended) = self.workers.join_next(), if !self.workers.is_empty() => self.ended(ended),
                () = tokio::time::sleep(retry) => {}
            }
        }
    }

    fn ended(&mut self, ended: Result<Uid, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.mailboxes.lock().remove(&uid);
                // A Pod of the same identity may have come back meanwhile.
                self.turn();
            }
            Err(error) => tracing::error!(%error, "a Pod's worker broke; it is looked after again"),
        }
    }

    fn turn(&mut self) {
        let mut pods = self.pods.list();
        pods.sort_by_key(|pod| (pod.meta.creation_timestamp, pod.meta.key()));
        let known = self.mailboxes.lock().clone();
        for (uid, mailbox) in &known {
            if !pods.iter().any(|pod| pod.uid() == uid) && !mailbox.wanted().is_gone {
                mailbox.change(|wanted| wanted.is_gone = true);
            }
        }
        for pod in pods {
            match known.get(pod.uid()) {
                Some(mailbox) => {
                    let before = mailbox.wanted();
                    if before.pod.meta.resource_version != pod.meta.resource_version {
                        mailbox.change(|wanted| wanted.pod = pod);
                    }
                }
                None => self.begin(pod),
            }
        }
    }

    fn begin(&mut self, pod: Arc<PodObject>) {
        let mailbox = Arc::new(Mailbox::new(pod.clone()));
        // What has run before was taken before.
        let is_new =
            pod.status.start_time.is_none() && !pod.has_ended() && pod.meta.deletion_timestamp.is_none();
        if is_new && let Some(verdict) = self.admit(&pod) {
            tracing::info!(pod = pod.long_name(), verdict.reason, verdict.message, "the Pod is refused");
            let words = verdict.message.strip_prefix("Pod was rejected: ").unwrap_or(&verdict.message);
            PodEvents::new(&self.context.recorder, &pod).pod(Warning, &verdict.reason, words);
            mailbox.change(|wanted| wanted.verdict = Some(verdict));
        }
        self.spawn(pod.uid().clone(), mailbox);
    }

    fn spawn(&mut self, uid: Uid, mailbox: Arc<Mailbox>) {
        let worker = Worker::new(self.context.clone(), mailbox.clone());
        self.mailboxes.lock().insert(uid.clone(), mailbox);
        self.workers.spawn(async move {
            worker.run().await;
            uid
        });
    }

    fn admit(&self, pod: &PodObject) -> Option<crate::core::memory::Verdict> {
        let node = match self.nodes.get(&ObjectKey::cluster(&self.context.config.node_name)) {
            Some(node) => node.placement.clone(),
            None => self.context.node.placement(self.context.config.clock.now()),
        };
        let others: Vec<_> = self
            .mailboxes
            .all()
            .iter()
            .map(|mailbox| mailbox.wanted())
            .filter(|wanted| !wanted.is_gone && wanted.verdict.is_none())
            .map(|wanted| wanted.pod.placement.clone())
            .collect();
        admit(pod, &node, &others, &self.context.config.unsafe_sysctls)
    }

    /// Ends what the runtime has of Pods that the API has not. Says whether it could look.
    async fn adopt_orphans(&mut self) -> bool {
        let found = match orphan_pods(&*self.context.runtime).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot look for Pods that are left over yet");
                return false;
            }
        };
        let is_known = |uid: &str| self.mailboxes.get(uid).is_some();
        let orphans: Vec<RuntimePod> = found.into_iter().filter(|pod| !is_known(&pod.uid)).collect();
        let is_left = |uid: &str| !is_known(uid) && !orphans.iter().any(|pod| pod.uid == uid);
        let folders = names(&self.context.volumes.pods_dir()).filter(|uid| is_left(uid)).collect::<Vec<_>>();
        // Logs go last, when nobody else knows of the Pod any more: `NAMESPACE_NAME_UID`.
        let logs = &self.context.config.pod_log_dir;
        let of_nobody = |name: &String| name.split('_').nth(2).is_some_and(is_left);
        for name in names(logs).filter(of_nobody) {
            tracing::info!(name, "a Pod's logs are left over; removing them");
            if let Err(error) = tokio::fs::remove_dir_all(logs.join(&name)).await {
                tracing::warn!(name, %error, "cannot remove logs that are left over");
            }
        }
        for pod in orphans {
            tracing::info!(pod.namespace, pod.name, pod.uid, "a Pod is left over; ending it");
            let (uid, object) = (Uid::from(pod.uid.as_str()), Arc::new(left_over(&pod)));
            let mailbox = Arc::new(Mailbox::new(object));
            mailbox.change(|wanted| wanted.is_gone = true);
            self.spawn(uid, mailbox);
        }
        for uid in folders {
            tracing::info!(uid, "a Pod's folder is left over; removing it");
            if let Err(error) = self.context.volumes.tear_down(&uid).await {
                tracing::warn!(
                    uid,
                    error = minik_component::chain(&error),
                    "cannot remove a folder that is left over"
                );
            }
            if let Err(error) = self.context.cgroups.remove(&uid).await {
                tracing::warn!(
                    uid,
                    error = minik_component::chain(&error),
                    "cannot remove a cgroup that is left over"
                );
            }
        }
        true
    }
}

/// The names in a folder.
fn names(folder: &std::path::Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// A Pod of which only its names are known.
fn left_over(pod: &RuntimePod) -> PodObject {
    let meta = minik_client::Meta {
        name: pod.name.as_str().into(),
        namespace: pod.namespace.as_str().into(),
        uid: pod.uid.as_str().into(),
        ..Default::default()
    };
    PodObject {
        meta,
        annotations: BTreeMap::new(),
        spec: Default::default(),
        status: Default::default(),
        ephemeral: Vec::new(),
        placement: Arc::default(),
    }
}
