//! Ending: hooks, signals, the sandbox, then whatever else the Pod had.

use super::{RETRY, Stage, Wanted, Worker};
use crate::core::plan::End;
use crate::core::view::{Instance, State};
use crate::events::PodEvents;
use crate::hooks;
use crate::names;
use crate::pod::{Kind, PodObject};
use futures::future::join_all;
use k8s_openapi::api::core::v1 as api;
use minik_client::EventType::{Normal, Warning};
use std::time::Duration;

/// A container always gets this long, whatever its hook took.
const SHORTEST_GRACE_SECONDS: i64 = 2;

impl Worker {
    /// Ends a Pod that is to end. Gives when to look again.
    pub(super) async fn end(&mut self, wanted: &Wanted) -> Duration {
        let pod = wanted.pod.clone();
        if !self.observe(&pod).await {
            return super::FIRST_RETRY;
        }
        self.probes.stop_all();
        self.tell(wanted);
        let grace = self.memory.verdict.as_ref().and_then(|verdict| verdict.grace_seconds);
        let (mailbox, whole) = (self.mailbox.clone(), pod.grace_seconds());
        // Cancel-safe: what was begun goes on in the runtime; it is asked again with the shorter time.
        let ended = tokio::select! {
            ended = self.end_all(&pod, grace) => ended,
            () = mailbox.shorter_grace(whole) => {
                mailbox.look();
                return Duration::ZERO;
            }
        };
        if let Err(wait) = ended {
            return wait;
        }
        if !self.observe(&pod).await {
            return super::FIRST_RETRY;
        }
        if self.view.alive().next().is_some() || self.view.sandboxes.iter().any(|one| one.ready) {
            return self.retry();
        }
        if let Err(error) = self.take_down(&pod).await {
            tracing::warn!(pod = pod.long_name(), error, "cannot take down what the Pod had");
            return self.retry();
        }
        self.stage = Stage::Ended;
        self.mailbox.look();
        RETRY
    }

    async fn take_down(&mut self, pod: &PodObject) -> Result<(), String> {
        let context = &self.context;
        minik_fault::point("kubelet.sandboxes.ended");
        context.volumes.tear_down(pod.uid()).await.map_err(|error| minik_component::chain(&error))?;
        context.cgroups.remove(pod.uid()).await.map_err(|error| minik_component::chain(&error))?;
        context.images.forget(pod.uid());
        context.watches.forget(pod.uid());
        Ok(())
    }

    /// Removes the last traces of a Pod that the API has forgotten. Says whether all are gone.
    pub(super) async fn remove(&mut self, pod: &PodObject) -> bool {
        if !self.observe(pod).await {
            return false;
        }
        let runtime = self.context.runtime.clone();
        for instance in &self.view.instances {
            if let Err(error) = runtime.remove_container(&instance.id).await
                && !error.is_absent()
            {
                tracing::warn!(pod = pod.long_name(), %error, "cannot remove a container");
                return false;
            }
            minik_fault::point("kubelet.container.removed");
        }
        for sandbox in &self.view.sandboxes {
            if let Err(error) = runtime.remove_sandbox(&sandbox.id).await
                && !error.is_absent()
            {
                tracing::warn!(pod = pod.long_name(), %error, "cannot remove a sandbox");
                return false;
            }
            minik_fault::point("kubelet.sandbox.removed");
        }
        if let Err(error) = self.take_down(pod).await {
            tracing::warn!(pod = pod.long_name(), error, "cannot take down what the Pod had");
            return false;
        }
        match tokio::fs::remove_dir_all(self.context.log_dir(pod)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(pod = pod.long_name(), %error, "cannot remove the Pod's logs");
            }
            _ => {}
        }
        minik_fault::point("kubelet.logs.removed");
        self.context.writer.forget(pod.uid());
        true
    }

    /// Ends all containers, ordinary ones first and at once, then sidecars from the last to the first, then sandboxes.
    pub(super) async fn end_all(&mut self, pod: &PodObject, grace: Option<i64>) -> Result<(), Duration> {
        let began = self.context.clock().elapsed();
        let whole = grace.unwrap_or_else(|| self.grace_of(pod));
        let alive: Vec<Instance> = self.view.alive().cloned().collect();
        let order = |one: &Instance| pod.inits().iter().position(|init| init.name == one.name);
        let (mut sidecars, mains): (Vec<_>, Vec<_>) = alive.into_iter().partition(|one| order(one).is_some());
        sidecars.sort_by_key(|one| std::cmp::Reverse(order(one)));
        let ends = mains.iter().map(|one| self.kill(pod, one, whole, grace.is_some(), None));
        let mut failed = join_all(ends).await.into_iter().any(|ended| !ended);
        for one in &sidecars {
            let passed = self.context.clock().elapsed().saturating_sub(began).as_secs() as i64;
            failed |= !self.kill(pod, one, (whole - passed).max(0), grace.is_some(), None).await;
        }
        minik_fault::point("kubelet.containers.ended");
        for sandbox in self.view.sandboxes.iter().filter(|one| one.ready) {
            if let Err(error) = self.context.runtime.stop_sandbox(&sandbox.id).await
                && !error.is_absent()
            {
                tracing::warn!(pod = pod.long_name(), %error, "cannot stop the sandbox");
                let events = PodEvents::new(&self.context.recorder, pod);
                events.pod(Warning, "FailedKillPod", &format!("error killing pod: {error}"));
                failed = true;
            }
        }
        if failed { Err(self.retry()) } else { Ok(()) }
    }

    /// How long the Pod's end may take; the containers of one that the API has forgotten bear that themselves.
    fn grace_of(&self, pod: &PodObject) -> i64 {
        let borne = || self.view.alive().find_map(|run| run.annotations.get(names::GRACE)?.parse().ok());
        match pod.spec.containers.is_empty() {
            true => borne().unwrap_or_else(|| pod.grace_seconds()),
            false => pod.grace_seconds(),
        }
    }

    /// Ends one run.
    pub(super) async fn end_one(&mut self, pod: &PodObject, end: &End) -> Result<(), Duration> {
        let Some(run) = self.view.instances.iter().find(|one| one.id == end.id).cloned().or_else(|| {
            // Started in this very turn.
            let state = State::Running;
            Some(Instance { id: end.id.clone(), name: end.name.clone(), state, ..Instance::default() })
        }) else {
            return Ok(());
        };
        let grace = end.grace_seconds.unwrap_or(pod.grace_seconds());
        match self.kill(pod, &run, grace, end.grace_seconds.is_some(), Some(&end.message)).await {
            true => Ok(()),
            false => Err(self.retry()),
        }
    }

    /// Its hook, then its end. Says whether it has ended.
    async fn kill(
        &self,
        pod: &PodObject,
        run: &Instance,
        grace_seconds: i64,
        is_exact: bool,
        message: Option<&str>,
    ) -> bool {
        let context = &self.context;
        let events = PodEvents::new(&context.recorder, pod);
        let found = pod.container(&run.name);
        let kind = found.map_or(Kind::Main, |(kind, _)| kind);
        let words = message.map_or_else(|| format!("Stopping container {}", run.name), str::to_owned);
        events.container(kind, &run.name, Normal, "Killing", &words);
        let began = context.clock().elapsed();
        let hook = pre_stop(found.map(|(_, one)| one), run);
        if let Some(hook) = hook.filter(|_| grace_seconds > 0) {
            let named = api::Container { name: run.name.clone(), ..Default::default() };
            let container = found.map_or(&named, |(_, one)| one);
            let target = hooks::Target { pod, container, id: &run.id, ips: self.ips() };
            let limit = Duration::from_secs(grace_seconds as u64);
            match tokio::time::timeout(limit, hooks::run(context, &hook, &target)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::info!(
                        pod = pod.long_name(),
                        container = run.name,
                        error,
                        "the preStop hook failed"
                    );
                    events.container(kind, &run.name, Warning, "FailedPreStopHook", "PreStopHook failed");
                }
                Err(_) => tracing::info!(
                    pod = pod.long_name(),
                    container = run.name,
                    "the preStop hook took all the time"
                ),
            }
        }
        let passed = context.clock().elapsed().saturating_sub(began).as_secs() as i64;
        let mut left = grace_seconds - passed;
        if !is_exact && grace_seconds > 0 {
            left = left.max(SHORTEST_GRACE_SECONDS);
        }
        minik_fault::point("kubelet.container.stops");
        match context.runtime.stop_container(&run.id, left.max(0)).await {
            Ok(()) => true,
            Err(error) if error.is_absent() => true,
            Err(error) => {
                tracing::warn!(pod = pod.long_name(), container = run.name, %error, "cannot stop the container");
                false
            }
        }
    }
}

/// What a container wants done before its end; one whose Pod is not known any more bears it itself.
fn pre_stop(container: Option<&api::Container>, run: &Instance) -> Option<api::LifecycleHandler> {
    match container {
        Some(container) => container.lifecycle.as_ref()?.pre_stop.clone(),
        None => serde_json::from_str(run.annotations.get(names::PRE_STOP)?).ok(),
    }
}
