//! Watches of the ConfigMaps and Secrets that Pods mount: one an object, however many Pods mount it, as long as any does.
//!
//! A watch only says that something has changed; the content is read again by whoever is told.

use crate::dispatch::Mailboxes;
use crate::pod::{PodObject, Uid, list};
use minik_client::{Informer, PartialObject, Source};
use minik_component::{Chance, Shutdown};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;

/// An object: collection (`configmaps` or `secrets`), namespace, name.
type Key = (&'static str, String, String);

struct Watch {
    users: Arc<Mutex<BTreeSet<Uid>>>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The watches.
pub struct Watches {
    client: kube::Client,
    chance: Arc<dyn Chance>,
    mailboxes: Mailboxes,
    all: Mutex<BTreeMap<Key, Watch>>,
}

impl Watches {
    /// None yet; changes are told to the mailboxes.
    pub fn new(client: kube::Client, chance: Arc<dyn Chance>, mailboxes: Mailboxes) -> Watches {
        Watches { client, chance, mailboxes, all: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Watch>> {
        // Each change is complete before anything can panic.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches what a Pod mounts.
    pub fn follow(&self, pod: &PodObject) {
        let mut all = self.lock();
        for key in mounted(pod) {
            let watch = all.entry(key.clone()).or_insert_with(|| self.watch(&key));
            watch.users.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.uid().clone());
        }
    }

    /// Forgets a Pod, and what nobody else mounts.
    pub fn forget(&self, uid: &Uid) {
        self.lock().retain(|_, watch| {
            let mut users = watch.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.remove(uid);
            !users.is_empty()
        });
    }

    fn watch(&self, (collection, namespace, name): &Key) -> Watch {
        let path = format!("/api/v1/namespaces/{namespace}/{collection}");
        let metadata = Source::metadata(&path);
        let source = Source { field_selector: format!("metadata.name={name}"), ..metadata };
        let users: Arc<Mutex<BTreeSet<Uid>>> = Arc::default();
        let builder = Informer::<PartialObject>::builder(source);
        let (informer, mailboxes, told) = (builder.informer(), self.mailboxes.clone(), users.clone());
        let builder = builder.on_change(move |_| {
            // What was there at first is what was read.
            if !informer.has_synced() {
                return;
            }
            for uid in told.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                if let Some(mailbox) = mailboxes.get(uid) {
                    mailbox.refresh();
                }
            }
        });
        // It is ended with the watch.
        let task = tokio::spawn(builder.run(self.client.clone(), self.chance.clone(), Shutdown::new()));
        Watch { users, task }
    }
}

/// The objects that a Pod mounts.
fn mounted(pod: &PodObject) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    let mut add = |collection, name: Option<&String>| {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            keys.insert((collection, pod.namespace().to_owned(), name.clone()));
        }
    };
    for volume in list(&pod.spec.volumes) {
        add("configmaps", volume.config_map.as_ref().map(|source| &source.name));
        add("secrets", volume.secret.as_ref().and_then(|source| source.secret_name.as_ref()));
        let projected = volume.projected.as_ref().map(|source| list(&source.sources)).unwrap_or_default();
        for source in projected {
            add("configmaps", source.config_map.as_ref().map(|source| &source.name));
            add("secrets", source.secret.as_ref().map(|source| &source.name));
        }
    }
    keys
}
