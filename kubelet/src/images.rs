//! Images: whether to pull, with whose credentials, and how long to wait after a failure
//! (<https://kubernetes.io/docs/concepts/containers/images/>).

mod credentials;
mod reference;

pub use credentials::Credentials;
pub use reference::Reference;

use crate::core::memory::Failure;
use crate::events::PodEvents;
use crate::pod::{Kind, PodObject, Uid, text};
use crate::runtime::Runtime;
use k8s_openapi::api::core::v1 as api;
use minik_client::EventType::{Normal, Warning};
use minik_component::Clock;
use minik_cri::v1;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const FIRST_WAIT: Duration = Duration::from_secs(10);
/// After a failed pull its container is soon told to wait.
const SOON: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
struct Wait {
    wait: Duration,
    since: Duration,
    words: String,
}

/// Makes sure that images are there.
pub struct Images {
    runtime: Arc<dyn Runtime>,
    clock: Arc<dyn Clock>,
    waits: Mutex<BTreeMap<(Uid, String), Wait>>,
}

/// For which container an image is wanted.
pub struct Wanted<'a> {
    /// The Pod.
    pub pod: &'a PodObject,
    /// The container's kind.
    pub kind: Kind,
    /// The container.
    pub container: &'a api::Container,
    /// The Pod's sandbox.
    pub sandbox: &'a v1::PodSandboxConfig,
    /// Credentials of the Pod.
    pub credentials: &'a Credentials,
}

/// Why there is no image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoImage {
    /// The container's reason and message.
    pub failure: Failure,
    /// When to try again.
    pub again_in: Duration,
}

impl Images {
    /// Images of a runtime.
    pub fn new(runtime: Arc<dyn Runtime>, clock: Arc<dyn Clock>) -> Images {
        Images { runtime, clock, waits: Mutex::default() }
    }

    fn waits(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Uid, String), Wait>> {
        // Each change is complete before anything can panic.
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a Pod.
    pub fn forget(&self, uid: &Uid) {
        self.waits().retain(|(of, _), _| of != uid);
    }

    /// The image of a container, pulled if it must be.
    ///
    /// # Errors
    /// When it cannot be had now, with the reason that the container's status shows.
    pub async fn ensure(&self, wanted: &Wanted<'_>, events: &PodEvents<'_>) -> Result<v1::Image, NoImage> {
        let image = text(&wanted.container.image);
        let tell = |kind, reason: &str, words: &str| {
            events.container(wanted.kind, &wanted.container.name, kind, reason, words);
        };
        let fail = |reason: &str, message: String, again_in| NoImage {
            failure: Failure::new(reason, message),
            again_in,
        };
        let reference: Reference = match image.parse() {
            Ok(reference) => reference,
            Err(error) => {
                let words = format!("couldn't parse image name {image:?}: {error}");
                let words = format!("Failed to apply default image tag {image:?}: {words}");
                tell(Warning, "InspectFailed", &words);
                return Err(fail("InvalidImageName", words, FIRST_WAIT));
            }
        };
        let name = reference.with_tag();
        let present = self.runtime.image(&name).await.map_err(|error| {
            let words = format!("Failed to inspect image {image:?}: {error}");
            tell(Warning, "InspectFailed", &words);
            fail("ImageInspectError", words, FIRST_WAIT)
        })?;
        let policy = match text(&wanted.container.image_pull_policy) {
            "" if reference.is_latest() => "Always",
            "" => "IfNotPresent",
            policy => policy,
        };
        match (policy, present) {
            ("Never" | "IfNotPresent", Some(present)) => {
                let words = format!(
                    "Container image {image:?} already present on machine and can be accessed by the pod"
                );
                tell(Normal, "Pulled", &words);
                return Ok(present);
            }
            ("Never", None) => {
                let words = format!("Container image {image:?} is not present with pull policy of Never");
                tell(Warning, "ErrImageNeverPull", &words);
                return Err(fail("ErrImageNeverPull", words, FIRST_WAIT));
            }
            _ => {}
        }
        let key = (wanted.pod.uid().clone(), image.to_owned());
        if let Some((left, words)) = self.waits_still(&key) {
            let message = format!("Back-off pulling image {image:?}");
            tell(Normal, "BackOff", &message);
            return Err(fail("ImagePullBackOff", format!("{message}: {words}"), left));
        }
        self.pull(wanted, &reference, key, &tell).await
    }

    async fn pull(
        &self,
        wanted: &Wanted<'_>,
        reference: &Reference,
        key: (Uid, String),
        tell: &(dyn Fn(minik_client::EventType, &str, &str) + Sync),
    ) -> Result<v1::Image, NoImage> {
        let image = &key.1;
        tell(Normal, "Pulling", &format!("Pulling image {image:?}"));
        let began = self.clock.elapsed();
        match self.pull_with_any(wanted, reference).await {
            Ok(present) => {
                self.waits().remove(&key);
                let took = go_seconds(self.clock.elapsed().saturating_sub(began));
                let words = format!(
                    "Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {} bytes.",
                    present.size
                );
                tell(Normal, "Pulled", &words);
                Ok(present)
            }
            Err(error) => {
                let words = error.to_string();
                tell(Warning, "Failed", &format!("Failed to pull image {image:?}: {words}"));
                let wait = self.wait_after(&key, format!("ErrImagePull: {words}"));
                Err(NoImage { failure: Failure::new("ErrImagePull", words), again_in: wait.min(SOON) })
            }
        }
    }

    /// Tries each credential that fits, or none when there is none.
    async fn pull_with_any(
        &self,
        wanted: &Wanted<'_>,
        reference: &Reference,
    ) -> Result<v1::Image, crate::runtime::RuntimeError> {
        let mut tries: Vec<Option<v1::AuthConfig>> =
            wanted.credentials.of(&reference.registry, &reference.path).into_iter().map(Some).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut last = None;
        for auth in tries {
            let spec = v1::ImageSpec {
                image: reference.with_tag(),
                annotations: wanted.pod.annotations.clone().into_iter().collect(),
                user_specified_image: text(&wanted.container.image).to_owned(),
                ..Default::default()
            };
            let sandbox_config = Some(wanted.sandbox.clone());
            let request = v1::PullImageRequest { image: Some(spec), auth, sandbox_config };
            match self.runtime.pull_image(request).await {
                Ok(pulled) => {
                    if let Some(present) = self.runtime.image(&pulled).await? {
                        return Ok(present);
                    }
                    let present = self.runtime.image(&reference.with_tag()).await?;
                    return present.ok_or_else(|| crate::runtime::RuntimeError {
                        code: tonic::Code::NotFound,
                        message: format!("the image {pulled:?} is gone right after it was pulled"),
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| crate::runtime::RuntimeError {
            code: tonic::Code::Internal,
            message: "nothing was tried".into(),
        }))
    }

    fn waits_still(&self, key: &(Uid, String)) -> Option<(Duration, String)> {
        let waits = self.waits();
        let wait = waits.get(key)?;
        let passed = self.clock.elapsed().saturating_sub(wait.since);
        let left = wait.wait.checked_sub(passed).filter(|left| !left.is_zero())?;
        Some((left, wait.words.clone()))
    }

    fn wait_after(&self, key: &(Uid, String), words: String) -> Duration {
        let now = self.clock.elapsed();
        let mut waits = self.waits();
        let next = match waits.get(key) {
            Some(known) if now.saturating_sub(known.since) <= LONGEST_WAIT * 2 => {
                (known.wait * 2).min(LONGEST_WAIT)
            }
            _ => FIRST_WAIT,
        };
        waits.insert(key.clone(), Wait { wait: next, since: now, words });
        next
    }
}

/// A duration as upstream writes it in this place: `1.234s`, `56ms`.
fn go_seconds(duration: Duration) -> String {
    match duration.as_millis() {
        0..1000 => format!("{}ms", duration.as_millis()),
        millis => {
            let text = format!("{}.{:03}", millis / 1000, millis % 1000);
            format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let text = |millis| go_seconds(Duration::from_millis(millis));
        assert_eq!([text(56), text(1234), text(2000), text(61_500)], ["56ms", "1.234s", "2s", "61.5s"]);
    }
}
