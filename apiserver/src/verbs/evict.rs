//! Eviction: a Pod goes if its disruption budget allows it
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>).

use super::change::Made;
use super::pods::set_condition;
use super::{DeleteOptions, Input, Preconditions, Step, Target, WriteOptions};
use crate::admission::Operation;
use crate::api::Api;
use crate::authn::{MASTERS, UserInfo};
use crate::error::{ApiError, Named, Result};
use crate::object::Object;
use crate::wire;
use jiff::Timestamp;
use minik_apimachinery::selector::LabelSelector;
use minik_apimachinery::time;
use serde_json::{Map, Value, json};

/// Tries while others change the Pod.
const TRIES: usize = 20;
/// The most Pods whose eviction was granted and not yet seen by the controller of budgets.
const MOST_DISRUPTED: usize = 2000;
const GROUP: &str = "policy";
const BUDGETS: &str = "poddisruptionbudgets";

fn status_text<'a>(pod: &'a Value, pointer: &str) -> &'a str {
    pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn phase(pod: &Value) -> &str {
    status_text(pod, "/status/phase")
}

/// Whether a Pod's end disrupts nobody.
fn needs_no_budget(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed" | "Pending") || pod.is_terminating()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn number(budget: &Value, field: &str) -> i64 {
    budget["status"][field].as_i64().unwrap_or(0)
}

/// Whether a Pod that is not ready goes whatever the budget has left.
fn lets_unready_go(budget: &Value) -> bool {
    let (healthy, desired) = (number(budget, "currentHealthy"), number(budget, "desiredHealthy"));
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || (healthy >= desired && desired > 0)
}

fn refused(budget: &str, why: &str, retry_after_seconds: u32) -> ApiError {
    ApiError::TooManyRequests {
        message: "Cannot evict pod as it would violate the pod's disruption budget.".into(),
        retry_after_seconds,
        cause: Some(("DisruptionBudget", format!("The disruption budget {budget} {why}"))),
    }
}

fn still_processed(budget: &str) -> ApiError {
    refused(budget, "is still being processed by the server.", 10)
}

/// Why a budget that has nothing left has nothing left.
fn nothing_left(budget: &Value) -> String {
    let conditions = budget.pointer("/status/conditions").and_then(Value::as_array);
    let condition = conditions.into_iter().flatten().find(|one| one["type"] == "DisruptionAllowed");
    let told = condition.filter(|one| {
        one["status"] == "False" && one["message"].as_str().is_some_and(|text| !text.is_empty())
    });
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    let (healthy, desired) = (number(budget, "currentHealthy"), number(budget, "desiredHealthy"));
    match told {
        Some(one) if one["reason"] == "SyncFailed" => {
            format!("does not allow evicting pods currently because it failed sync: {}", text(one, "message"))
        }
        _ if healthy <= desired => format!("needs {desired} healthy pods and has {healthy} currently"),
        Some(one) => {
            let (reason, message) = (text(one, "reason"), text(one, "message"));
            format!("does not allow evicting pods currently ({reason}): {message}")
        }
        None => "does not allow evicting pods currently".into(),
    }
}

/// The budget once one more of its Pods goes.
fn spend(budget: &Value, pod: &str, now: Timestamp) -> Result<Value> {
    let name = budget.meta("name");
    let forbidden = |why: &str| {
        let on = Named { group: GROUP.into(), kind: "poddisruptionbudget".into(), name: name.into() };
        let message = format!("poddisruptionbudget.policy {name:?} is forbidden: {why}");
        Err(ApiError::Forbidden { on, message })
    };
    if number(budget, "observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(still_processed(name));
    }
    let left = number(budget, "disruptionsAllowed");
    if left < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if budget["status"]["disruptedPods"].as_object().map_or(0, Map::len) > MOST_DISRUPTED {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if left == 0 {
        return Err(refused(name, &nothing_left(budget), 0));
    }
    let mut next = budget.clone();
    next["status"]["disruptionsAllowed"] = (left - 1).into();
    next["status"]["disruptedPods"][pod] = time::seconds(now).into();
    if left == 1 {
        let observed = number(budget, "observedGeneration");
        let condition = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods",
            "message": "", "observedGeneration": observed, "lastTransitionTime": time::seconds(now)});
        set_condition(&mut next, condition);
    }
    Ok(next)
}

impl Api {
    /// Evicts a Pod: asks its budget, marks it as disrupted, then deletes it.
    ///
    /// # Errors
    /// 429 when the budget has nothing left; 500 for a Pod of several budgets; what forbids its deletion.
    pub async fn evict(&self, target: Target<'_>, eviction: &Value, options: &WriteOptions) -> Result<()> {
        self.world().caught_up().await?;
        let how = eviction_options(eviction)?;
        let mut options = options.clone();
        options.dry_run |= eviction.pointer("/deleteOptions/dryRun/0").is_some();
        if eviction.meta("name") != target.name {
            let why = "name in URL does not match name in Eviction object";
            return Err(ApiError::BadRequest(why.into()));
        }
        let step = Step::new(target, &options);
        let mut admitted = eviction.clone();
        let attributes = step.attributes(self, Operation::Create, target.name, None);
        self.admission().admit(&attributes, &mut admitted)?;
        self.admission().validate(&attributes, &admitted)?;
        let asked = how.preconditions.resource_version.is_some();
        for _ in 0..TRIES {
            let record = self.stored(&target).await?;
            let pod = wire::tree(&record.value, Some(record.revision))?;
            if !needs_no_budget(&pod) {
                return self.evict_by_budget(target, &pod, how, &options).await;
            }
            // One that could become ready meanwhile goes only as it was seen.
            let as_seen = !asked && phase(&pod) == "Pending" && !pod.is_terminating();
            match self.mark_and_delete(target, how.clone().at(&pod, as_seen), &options).await {
                Err(ApiError::Conflict { .. }) if !asked => {}
                result => return result,
            }
        }
        Err(target.conflict(super::change::MODIFIED))
    }

    async fn evict_by_budget(
        &self,
        target: Target<'_>,
        pod: &Value,
        how: DeleteOptions,
        options: &WriteOptions,
    ) -> Result<()> {
        let budgets = self.budgets_of(target.namespace, pod).await?;
        let mut as_seen = false;
        match &budgets[..] {
            [] => {}
            [budget] if !is_ready(pod) && lets_unready_go(budget) => as_seen = true,
            [budget] => self.spend_budget(target, budget.meta("name"), options).await?,
            _ => {
                let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(ApiError::Failed(why.into()));
            }
        }
        let asked = how.preconditions.resource_version.is_some();
        match self.mark_and_delete(target, how.at(pod, as_seen && !asked), options).await {
            // It became ready meanwhile: the client comes again.
            Err(ApiError::Conflict { .. }) if as_seen && !asked => {
                Err(still_processed(budgets.first().map_or("", |budget| budget.meta("name"))))
            }
            result => result,
        }
    }

    /// The budgets whose selectors match a Pod, as they are now whichever server wrote them.
    async fn budgets_of(&self, namespace: &str, pod: &Value) -> Result<Vec<Value>> {
        self.world().fresh().await?;
        let none = Map::new();
        let labels = pod["metadata"]["labels"].as_object().unwrap_or(&none);
        let fits = |budget: &Value| {
            LabelSelector::from_object(budget["spec"].get("selector")).is_ok_and(|one| one.matches(labels))
        };
        Ok(self.view().list(BUDGETS, namespace).into_iter().filter(fits).collect())
    }

    /// Takes one from what a budget has left; of several evictions at once each takes its own.
    async fn spend_budget(&self, target: Target<'_>, budget: &str, options: &WriteOptions) -> Result<()> {
        let served = self.served(GROUP, "v1", BUDGETS).ok_or(ApiError::NoSuchPath)?;
        let place = Target { served, namespace: target.namespace, name: budget, subresource: "status" };
        let mut make = |live: Option<&Value>| {
            let live = live.ok_or_else(|| place.not_found())?;
            let object = spend(live, target.name, options.now)?;
            Ok(Made::Changed(Input { object, findings: Vec::new() }))
        };
        self.change(place, &own(options), false, &mut make).await.map(drop)
    }

    /// Writes down why the Pod goes, then deletes it. What the deletion demands of the Pod is demanded of the first write.
    async fn mark_and_delete(
        &self,
        target: Target<'_>,
        mut how: DeleteOptions,
        options: &WriteOptions,
    ) -> Result<()> {
        if !options.dry_run {
            let status = Target { subresource: "status", ..target };
            let demanded = how.preconditions.clone();
            let now = time::seconds(options.now);
            let mut make = |live: Option<&Value>| {
                let mut object = live.cloned().unwrap_or_default();
                super::delete::check_preconditions(&target, &demanded, &object)?;
                let generation = object["metadata"]["generation"].clone();
                let mut condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                    "message": "Eviction API: evicting", "lastTransitionTime": now});
                if !generation.is_null() {
                    condition["observedGeneration"] = generation;
                }
                set_condition(&mut object, condition);
                Ok(Made::Changed(Input { object, findings: Vec::new() }))
            };
            let written = self.change(status, &own(options), false, &mut make).await?;
            if how.preconditions.resource_version.is_some() {
                how.preconditions.resource_version = written.revision.map(|revision| revision.to_string());
            }
        }
        self.delete(Target { subresource: "", ..target }, &how, options).await.map(drop)
    }
}

impl DeleteOptions {
    /// The same, demanding that the Pod still is as it was seen.
    fn at(mut self, pod: &Value, as_seen: bool) -> DeleteOptions {
        if as_seen {
            self.preconditions.resource_version = Some(pod.meta("resourceVersion").to_owned());
        }
        self
    }
}

/// What the server writes itself on the way of a user's request.
fn own(options: &WriteOptions) -> WriteOptions {
    WriteOptions { user: UserInfo::known("system:apiserver", &[MASTERS]), ..options.clone() }
}

fn eviction_options(eviction: &Value) -> Result<DeleteOptions> {
    let options = &eviction["deleteOptions"];
    let text = |pointer: &str| options.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    Ok(DeleteOptions {
        grace: options["gracePeriodSeconds"].as_i64(),
        preconditions: Preconditions {
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
        },
        propagation: super::Propagation::parse(&text("/propagationPolicy").unwrap_or_default())?,
        orphan_dependents: options["orphanDependents"].as_bool(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64, healthy: i64, desired: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "status": {"observedGeneration": 2,
            "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": desired}})
    }

    fn spent(budget: &Value) -> std::result::Result<Value, (u16, String)> {
        spend(budget, "p", Timestamp::UNIX_EPOCH).map_err(|error| {
            let status = error.status();
            let cause = status["details"]["causes"][0]["message"].as_str().unwrap_or_default();
            (error.code().0.as_u16(), cause.to_owned())
        })
    }

    #[test]
    fn a_budget_is_spent_one_by_one() {
        let two = spent(&budget(2, 3, 1)).unwrap();
        assert_eq!(two["status"]["disruptionsAllowed"], 1);
        assert_eq!(two["status"]["disruptedPods"], json!({"p": "1970-01-01T00:00:00Z"}));
        assert!(two["status"].get("conditions").is_none());
        let one = spent(&two).unwrap();
        assert_eq!(one["status"]["conditions"][0]["reason"], "InsufficientPods");
        let why = "The disruption budget b does not allow evicting pods currently".to_owned();
        assert_eq!(spent(&one), Err((429, why)));
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        let why = |words: &str| Err((429, format!("The disruption budget b {words}")));
        assert_eq!(spent(&budget(0, 1, 1)), why("needs 1 healthy pods and has 1 currently"));
        let mut new = budget(1, 1, 1);
        new["metadata"]["generation"] = 3.into();
        assert_eq!(spent(&new), why("is still being processed by the server."));
        let mut failed = budget(0, 1, 1);
        failed["status"]["conditions"] =
            json!([{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "x"}]);
        assert_eq!(spent(&failed), why("does not allow evicting pods currently because it failed sync: x"));
        assert_eq!(spent(&budget(-1, 1, 1)).unwrap_err().0, 403);
    }

    #[test]
    fn unready_pods_go_when_enough_others_are_healthy_or_always() {
        assert!(lets_unready_go(&budget(0, 1, 1)) && !lets_unready_go(&budget(0, 0, 1)));
        assert!(!lets_unready_go(&budget(0, 0, 0)));
        let mut always = budget(0, 0, 1);
        always["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow".into();
        assert!(lets_unready_go(&always));
    }
}
