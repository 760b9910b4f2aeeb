//! Events about Pods and their containers.

use crate::pod::{Kind, PodObject};
use minik_client::{EventRecorder, EventType};

/// Tells events about one Pod.
#[derive(Clone, Copy)]
pub struct PodEvents<'a> {
    recorder: &'a EventRecorder,
    pod: &'a PodObject,
}

impl<'a> PodEvents<'a> {
    /// Events about a Pod.
    pub fn new(recorder: &'a EventRecorder, pod: &'a PodObject) -> PodEvents<'a> {
        PodEvents { recorder, pod }
    }

    /// An event about the Pod.
    pub fn pod(&self, kind: EventType, reason: &str, words: &str) {
        self.recorder.event(&self.pod.reference(), kind, reason, "", words);
    }

    /// An event about one of its containers.
    pub fn container(&self, of: Kind, name: &str, kind: EventType, reason: &str, words: &str) {
        self.recorder.event(&self.pod.container_reference(of, name), kind, reason, "", words);
    }
}
