//! How Pods live: the first rule that fits a Pod.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Rules in order; a Pod that none fits runs at once and for good.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The first that fits counts.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// Which Pods, and how they live. Times are seconds, with fractions.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rule {
    /// Labels that the Pod bears, all of them.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// The Pod's namespace; any when empty.
    pub namespace: Arc<str>,
    /// An image that one of its containers has; any when empty.
    pub image: Arc<str>,
    /// From being bound until its containers run.
    start_after: f64,
    /// From running until it is ready.
    ready_after: f64,
    /// From running until its containers end; never without.
    run_for: Option<f64>,
    /// What they end with.
    pub exit_code: i32,
    /// Why its containers never start, such as `ErrImagePull`.
    pub waiting: Option<String>,
    /// From the wish to delete it until it is gone; its grace period is the limit.
    stop_after: f64,
    /// Each time is longer by up to this share of itself, by chance.
    jitter: f64,
}

impl Rules {
    /// Reads rules from YAML.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Rules, String> {
        let rules: Rules = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        for (index, rule) in rules.rules.iter().enumerate() {
            let times = [
                ("startAfter", rule.start_after),
                ("readyAfter", rule.ready_after),
                ("runFor", rule.run_for.unwrap_or_default()),
                ("stopAfter", rule.stop_after),
                ("jitter", rule.jitter),
            ];
            if let Some((name, value)) = times.iter().find(|(_, value)| !(0.0..=1e9).contains(value)) {
                return Err(format!("rules[{index}].{name}: {value} is not between 0 and 1000000000"));
            }
        }
        Ok(rules)
    }

    /// The rule of a Pod; the default one when none fits.
    pub(crate) fn of(
        &self,
        namespace: &str,
        labels: &BTreeMap<Arc<str>, Arc<str>>,
        images: &[Arc<str>],
    ) -> Rule {
        let fits = |rule: &&Rule| {
            (rule.namespace.is_empty() || *rule.namespace == *namespace)
                && (rule.image.is_empty() || images.contains(&rule.image))
                && rule.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
        };
        self.rules.iter().find(fits).cloned().unwrap_or_default()
    }
}

impl Rule {
    fn time(&self, seconds: f64, share: f64) -> Duration {
        Duration::from_secs_f64(seconds * (1.0 + self.jitter * share))
    }

    /// From being bound until its containers run; `share` of the jitter, 0 to 1, is the Pod's own.
    pub(crate) fn start_after(&self, share: f64) -> Duration {
        self.time(self.start_after, share)
    }

    /// From running until it is ready.
    pub(crate) fn ready_after(&self, share: f64) -> Duration {
        self.time(self.ready_after, share)
    }

    /// From running until its containers end.
    pub(crate) fn run_for(&self, share: f64) -> Option<Duration> {
        self.run_for.map(|seconds| self.time(seconds, share))
    }

    /// From the wish to delete it until it is gone.
    pub(crate) fn stop_after(&self, share: f64) -> Duration {
        self.time(self.stop_after, share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rules = Rules::parse(
            "rules:\n- image: bad\n  waiting: ErrImagePull\n- labels: {app: slow}\n  startAfter: 1.5\n  jitter: 1\n- namespace: jobs\n  runFor: 2\n  exitCode: 3\n",
        )
        .unwrap();
        let labels = |value: &str| BTreeMap::from([(Arc::from("app"), Arc::from(value))]);
        let of = |namespace: &str, app: &str, image: &str| rules.of(namespace, &labels(app), &[image.into()]);
        assert_eq!(of("jobs", "slow", "bad").waiting.as_deref(), Some("ErrImagePull"));
        assert_eq!(of("jobs", "slow", "good").start_after(0.0), Duration::from_millis(1500));
        assert_eq!(of("jobs", "slow", "good").start_after(1.0), Duration::from_secs(3));
        assert_eq!(of("jobs", "quick", "good").run_for(0.5), Some(Duration::from_secs(2)));
        assert_eq!(of("other", "quick", "good"), Rule::default());
    }

    #[test]
    fn bad_rules_are_told() {
        assert!(Rules::parse("rules:\n- startafter: 1\n").is_err());
        let error = Rules::parse("rules:\n- {}\n- startAfter: -1\n").unwrap_err();
        assert!(error.starts_with("rules[1].startAfter: -1"), "{error}");
    }
}
