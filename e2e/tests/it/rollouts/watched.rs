//! Which templates' Pods are there at the same time, by every change of them.

use anyhow::Result;
use minik_client::{Change, Informer, Meta, Projection, Source};
use minik_component::{Shutdown, SystemChance};
use minik_e2e::harness::TestCluster;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

#[derive(Deserialize)]
struct Pod {
    metadata: Meta,
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    phase: String,
}

impl Projection for Pod {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// The template of each Pod that has not ended.
    pods: BTreeMap<Arc<str>, Arc<str>>,
    /// All templates.
    pub templates: BTreeSet<Arc<str>>,
    /// Those of which Pods were there at the same time.
    pub together: Vec<BTreeSet<Arc<str>>>,
}

impl Seen {
    fn observe(&mut self, change: &Change<Pod>) {
        let pod = change.object();
        let ended =
            matches!(&*pod.status.phase, "Succeeded" | "Failed") || matches!(change, Change::Deleted(_));
        if ended {
            self.pods.remove(&pod.metadata.uid);
        } else if let Some(hash) = pod.metadata.labels.get("pod-template-hash") {
            self.templates.insert(hash.clone());
            self.pods.insert(pod.metadata.uid.clone(), hash.clone());
        }
        let now: BTreeSet<Arc<str>> = self.pods.values().cloned().collect();
        if now.len() > 1 {
            self.together.push(now);
        }
    }
}

/// A running watch.
pub struct Watched {
    runtime: tokio::runtime::Runtime,
    seen: Arc<Mutex<Seen>>,
}

impl Watched {
    /// Returns once the Pods that are there are seen.
    pub fn start(cluster: &TestCluster, selector: &str) -> Result<Watched> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(async { cluster.client() })?;
        let seen = Arc::<Mutex<Seen>>::default();
        let source =
            Source { label_selector: selector.to_owned(), ..Source::all("/api/v1/namespaces/default/pods") };
        let observer = seen.clone();
        let builder = Informer::builder(source)
            .on_change(move |change| observer.lock().expect("no other thread panicked").observe(change));
        let informer = builder.informer();
        // It ends with the runtime, which `stop` ends.
        runtime.spawn(builder.run(client, Arc::new(SystemChance), Shutdown::new()));
        runtime.block_on(informer.synced());
        Ok(Watched { runtime, seen })
    }

    /// What was seen so far.
    pub fn stop(self) -> Result<Seen> {
        self.runtime.shutdown_background();
        Ok(std::mem::take(&mut *self.seen.lock().expect("the watch did not panic")))
    }
}
