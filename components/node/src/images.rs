//! Getting a container's image: pull policies, credentials, back-off, and the events that tell of it.

pub mod credentials;

use crate::events::{Kind, Recorder};
use crate::objects::Objects;
use crate::pod::backoff::Backoff;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use runtime::{ImageStatus, RegistryAuth, Runtime};
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore};

pub struct Images {
    pub runtime: Arc<dyn Runtime>,
    pub objects: Arc<Objects>,
    pub recorder: Recorder,
    pub pulls: Semaphore,
    pub backoff: Mutex<Backoff>,
    /// Told when an image came.
    pub changed: Arc<Notify>,
}

/// Why a container has to wait for its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageError {
    pub reason: &'static str,
    pub message: String,
    /// Try again then.
    pub retry: Timestamp,
}

/// What the policy makes of an image that is or is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Use,
    Pull,
    Refuse,
}

pub fn judge(policy: &str, present: bool) -> Verdict {
    match (policy, present) {
        ("Never", false) => Verdict::Refuse,
        ("Always", _) | (_, false) => Verdict::Pull,
        _ => Verdict::Use,
    }
}

/// The written policy, or upstream's default: Always for `:latest` and untagged images.
pub fn policy<'a>(container: &'a Container, image: &str) -> &'a str {
    container.image_pull_policy.as_deref().filter(|p| !p.is_empty()).unwrap_or_else(|| {
        let last = image.rsplit('/').next().unwrap_or(image);
        let digest = image.contains('@');
        if !digest && (!last.contains(':') || last.ends_with(":latest")) { "Always" } else { "IfNotPresent" }
    })
}

/// The reference with its default tag; the error is upstream's.
pub fn with_tag(image: &str) -> Result<String, String> {
    let bad = || {
        Err(format!(
            "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format"
        ))
    };
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    let (path, tag) = match name[slash..].rfind(':') {
        Some(i) => (&name[..slash + i], Some(&name[slash + i + 1..])),
        None => (name, None),
    };
    let host_and_rest: Vec<&str> = path.split('/').collect();
    let is_host = |h: &str| h.contains('.') || h.contains(':') || h == "localhost";
    let parts = if host_and_rest.len() > 1 && is_host(host_and_rest[0]) {
        &host_and_rest[1..]
    } else {
        &host_and_rest
    };
    let part_ok = |p: &&str| {
        !p.is_empty()
            && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
            && p.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && p.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
    };
    let tag_ok = |t: &str| {
        !t.is_empty() && t.len() <= 128 && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let digest_ok = |d: &str| d.split_once(':').is_some_and(|(a, h)| !a.is_empty() && h.len() >= 32);
    if parts.is_empty()
        || !parts.iter().all(part_ok)
        || tag.is_some_and(|t| !tag_ok(t))
        || digest.is_some_and(|d| !digest_ok(d))
    {
        return bad();
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{image}:latest") } else { image.to_owned() })
}

impl Images {
    /// Makes the image present as the policy asks and answers what it is. A wait for a free pull slot counts as part
    /// of the pull; dropping the future abandons the pull.
    pub async fn ensure(&self, pod: &Pod, container: &Container) -> Result<ImageStatus, ImageError> {
        let asked = container.image.as_deref().unwrap_or_default().trim();
        let now = Timestamp::now();
        let soon = |reason, message| ImageError { reason, message, retry: later(now, 10) };
        let event = |kind, reason, message: String| {
            self.recorder.container(pod, &container.name, kind, reason, message);
        };
        let image = match with_tag(asked) {
            Ok(image) => image,
            Err(message) => {
                event(Kind::Warning, "InspectFailed", message.clone());
                return Err(soon("InvalidImageName", message));
            }
        };
        let present = match self.runtime.image_status(&image).await {
            Ok(found) => found,
            Err(error) => {
                let message = format!("Failed to inspect image {image:?}: {error}");
                event(Kind::Warning, "InspectFailed", message.clone());
                return Err(soon("ImageInspectError", message));
            }
        };
        match (judge(policy(container, &image), present.is_some()), present) {
            (Verdict::Use, Some(status)) => {
                let message = format!(
                    "Container image {asked:?} already present on machine and can be accessed by the pod"
                );
                event(Kind::Normal, "Pulled", message);
                Ok(status)
            }
            (Verdict::Refuse, _) => {
                let message = format!("Container image {asked:?} is not present with pull policy of Never");
                event(Kind::Warning, "ErrImageNeverPull", message.clone());
                Err(soon("ErrImageNeverPull", message))
            }
            _ => self.pull(pod, container, asked, &image).await,
        }
    }

    async fn pull(
        &self,
        pod: &Pod,
        c: &Container,
        asked: &str,
        image: &str,
    ) -> Result<ImageStatus, ImageError> {
        let event =
            |kind, reason, message: String| self.recorder.container(pod, &c.name, kind, reason, message);
        let key = format!("{}_{image}", pod.metadata.uid.as_deref().unwrap_or_default());
        let started = Timestamp::now();
        if let Some(until) = self.backoff.lock().waiting(&key, started) {
            let message = format!("Back-off pulling image {asked:?}");
            event(Kind::Normal, "BackOff", message.clone());
            event(Kind::Warning, "Failed", "Error: ImagePullBackOff".into());
            return Err(ImageError { reason: "ImagePullBackOff", message, retry: until });
        }
        event(Kind::Normal, "Pulling", format!("Pulling image {asked:?}"));
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let auths = self.auths(pod, namespace, image).await;
        let slot = self.pulls.acquire().await;
        let pulling = Timestamp::now();
        let mut outcome =
            Err(runtime::RuntimeError::Image { image: image.into(), why: "no credentials".into() });
        if auths.is_empty() {
            outcome = self.runtime.pull_image(image, None).await;
        }
        for auth in auths {
            outcome = self.runtime.pull_image(image, Some(auth)).await;
            if outcome.is_ok() {
                break;
            }
        }
        drop(slot);
        let done = Timestamp::now();
        match outcome {
            Ok(status) => {
                self.backoff.lock().forget(&key);
                self.changed.notify_one();
                let took = crate::pod::backoff::go_duration(done.duration_since(pulling));
                let whole = crate::pod::backoff::go_duration(done.duration_since(started));
                event(
                    Kind::Normal,
                    "Pulled",
                    format!(
                        "Successfully pulled image {asked:?} in {took} ({whole} including waiting). Image size: {} bytes.",
                        status.size
                    ),
                );
                Ok(status)
            }
            Err(error) => {
                let why = kit_chain(&error);
                event(Kind::Warning, "Failed", format!("Failed to pull image {asked:?}: {why}"));
                event(Kind::Warning, "Failed", "Error: ErrImagePull".into());
                let mut backoff = self.backoff.lock();
                backoff.next(&key, done, done);
                // The wait shows as ImagePullBackOff from the next look on, which is soon.
                Err(ImageError { reason: "ErrImagePull", message: why, retry: later(done, 1) })
            }
        }
    }

    async fn auths(&self, pod: &Pod, namespace: &str, image: &str) -> Vec<RegistryAuth> {
        let mut found = Vec::new();
        for r in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
            match self.objects.secrets.track(namespace, &r.name).get().await {
                Ok(Some(secret)) => found.extend(credentials::from_secret(&secret)),
                Ok(None) => self.recorder.pod(
                    pod,
                    Kind::Warning,
                    "FailedToRetrieveImagePullSecret",
                    format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                        r.name
                    ),
                ),
                Err(error) => tracing::warn!(error, secret = r.name, "image pull secret not read"),
            }
        }
        credentials::matching(&found, image)
    }
}

/// An error and its causes on one line.
pub fn kit_chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        out.push_str(": ");
        out.push_str(&e.to_string());
        next = e.source();
    }
    out
}

fn later(now: Timestamp, seconds: i64) -> Timestamp {
    now.checked_add(k8s_openapi::jiff::SignedDuration::from_secs(seconds)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        assert_eq!(judge("Never", false), Verdict::Refuse);
        assert_eq!(judge("Never", true), Verdict::Use);
        assert_eq!(judge("Always", true), Verdict::Pull);
        assert_eq!(judge("IfNotPresent", true), Verdict::Use);
        assert_eq!(judge("IfNotPresent", false), Verdict::Pull);
        let c = Container::default();
        assert_eq!(policy(&c, "nginx"), "Always");
        assert_eq!(policy(&c, "localhost:5000/nginx"), "Always");
        assert_eq!(policy(&c, "nginx:1.2"), "IfNotPresent");
    }

    #[test]
    fn tags() {
        assert_eq!(with_tag("nginx").expect("valid"), "nginx:latest");
        assert_eq!(with_tag("localhost:5000/a/b").expect("valid"), "localhost:5000/a/b:latest");
        assert_eq!(with_tag("r.io/a:1").expect("valid"), "r.io/a:1");
        let digest = format!("a@sha256:{}", "0".repeat(64));
        assert_eq!(with_tag(&digest).expect("valid"), digest);
        for bad in ["", "Nginx", "a//b", "a:", "nginx:ta g", "-a", "a@x"] {
            assert!(with_tag(bad).expect_err(bad).contains("invalid reference format"));
        }
    }
}
