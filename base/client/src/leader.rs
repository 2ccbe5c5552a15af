//! Leader election on a Lease, with client-go's rules: observed times come from the local clock, so clocks need not
//! agree, only run at a similar rate.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kit::Shutdown;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::Instant;
use tracing::{debug, info};

#[derive(Clone, Debug)]
pub struct LeaderConfig {
    pub namespace: String,
    pub name: String,
    /// Unique among the candidates.
    pub identity: String,
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

impl LeaderConfig {
    /// With client-go's times.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

pub struct LeaderElection {
    api: Api<Lease>,
    config: LeaderConfig,
    /// The last record seen and when it last changed, by our clock.
    observed: Option<(LeaseSpec, Instant)>,
}

/// How a leadership ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// `stop` was triggered, or the work ended by itself; the lease is released.
    Finished,
    /// The lease could not be renewed in time; the work was told to stop and has stopped.
    Lost,
}

/// What to do next with the record that was read.
#[derive(Debug, PartialEq)]
enum Step {
    Create(LeaseSpec),
    Update(LeaseSpec),
    Wait,
}

impl LeaderElection {
    pub fn new(client: Client, config: LeaderConfig) -> Self {
        Self { api: Api::namespaced(client, &config.namespace), config, observed: None }
    }

    /// Waits to become the leader, then runs `lead` until it ends, `stop` is triggered or the lease is lost. `lead` is
    /// handed a signal of its own and must end soon after it.
    pub async fn run<F, Fut>(mut self, stop: Shutdown, lead: F) -> Ended
    where
        F: FnOnce(Shutdown) -> Fut,
        Fut: Future<Output = ()>,
    {
        while !self.try_once().await {
            tokio::select! {
                () = tokio::time::sleep(jitter(self.config.retry_period)) => {}
                () = stop.wait() => return Ended::Finished,
            }
        }
        info!(lease = self.config.name, identity = self.config.identity, "became leader");
        let term = stop.child();
        let work = lead(term.clone());
        tokio::pin!(work);
        let lost = tokio::select! {
            () = &mut work => None,
            lost = self.hold(&term) => Some(lost),
        };
        term.trigger();
        if lost.is_some() {
            work.await;
        }
        if lost == Some(true) {
            info!(lease = self.config.name, "lost leadership");
            return Ended::Lost;
        }
        self.release().await;
        Ended::Finished
    }

    /// Renews until the term ends (false) or the deadline passes without a renewal (true).
    async fn hold(&mut self, term: &Shutdown) -> bool {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.config.retry_period) => {}
                () = term.wait() => return false,
            }
            let deadline = renewed + self.config.renew_deadline;
            match tokio::time::timeout_at(deadline, self.try_once()).await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) if Instant::now() < deadline => {}
                _ => return true,
            }
        }
    }

    /// One attempt to take or renew the lease.
    async fn try_once(&mut self) -> bool {
        let lease = match crate::errors::optional(self.api.get(&self.config.name).await) {
            Ok(lease) => lease,
            Err(error) => {
                debug!(%error, lease = self.config.name, "cannot read the lease");
                return false;
            }
        };
        let step = self.plan(lease.as_ref().and_then(|l| l.spec.as_ref()), Instant::now(), Timestamp::now());
        let result = match (step, lease) {
            (Step::Wait, _) => return false,
            (Step::Update(spec), Some(lease)) => {
                let lease = Lease { spec: Some(spec), ..lease };
                self.api.replace(&self.config.name, &PostParams::default(), &lease).await
            }
            (Step::Create(spec) | Step::Update(spec), _) => {
                let metadata = ObjectMeta {
                    name: Some(self.config.name.clone()),
                    namespace: Some(self.config.namespace.clone()),
                    ..Default::default()
                };
                let lease = Lease { metadata, spec: Some(spec) };
                self.api.create(&PostParams::default(), &lease).await
            }
        };
        match result {
            Ok(lease) => {
                self.observed = lease.spec.map(|spec| (spec, Instant::now()));
                true
            }
            Err(error) => {
                debug!(%error, lease = self.config.name, "cannot write the lease");
                false
            }
        }
    }

    fn plan(&mut self, current: Option<&LeaseSpec>, now: Instant, wall: Timestamp) -> Step {
        let seconds = i32::try_from(self.config.lease_duration.as_secs()).unwrap_or(i32::MAX);
        let mine = |acquired: Option<MicroTime>, transitions: i32| LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: acquired.or(Some(MicroTime(wall))),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(transitions),
            ..Default::default()
        };
        let Some(current) = current else { return Step::Create(mine(None, 0)) };
        if self.observed.as_ref().is_none_or(|(seen, _)| seen != current) {
            self.observed = Some((current.clone(), now));
        }
        let seen = self.observed.as_ref().map_or(now, |(_, at)| *at);
        let holder = current.holder_identity.as_deref().unwrap_or("");
        let transitions = current.lease_transitions.unwrap_or(0);
        if holder == self.config.identity {
            return Step::Update(mine(current.acquire_time.clone(), transitions));
        }
        let lasts =
            Duration::from_secs(u64::try_from(current.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
        if !holder.is_empty() && now < seen + lasts {
            return Step::Wait;
        }
        Step::Update(mine(None, transitions.saturating_add(1)))
    }

    /// Gives the lease up, so that the next leader need not wait.
    async fn release(&self) {
        let Ok(mut lease) = self.api.get(&self.config.name).await else { return };
        let Some(spec) = lease.spec.as_mut() else { return };
        if spec.holder_identity.as_deref() != Some(&self.config.identity) {
            return;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        if let Err(error) = self.api.replace(&self.config.name, &PostParams::default(), &lease).await {
            debug!(%error, lease = self.config.name, "cannot release the lease");
        }
    }
}

fn jitter(period: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    period + period * ((RandomState::new().hash_one(0) % 1200) as u32) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn election(identity: &str) -> LeaderElection {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::io::Error>(http::Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
        });
        LeaderElection::new(Client::new(service, "default"), LeaderConfig::new("kube-system", "x", identity))
    }

    fn held_by(identity: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(identity.into()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn a_held_lease_is_taken_only_after_it_stood_still() {
        let mut me = election("me");
        let start = Instant::now();
        let other = held_by("other");
        assert_eq!(me.plan(Some(&other), start, Timestamp::now()), Step::Wait);
        assert_eq!(me.plan(Some(&other), start + Duration::from_secs(14), Timestamp::now()), Step::Wait);
        let renewed = LeaseSpec { renew_time: Some(MicroTime(Timestamp::now())), ..other.clone() };
        assert_eq!(me.plan(Some(&renewed), start + Duration::from_secs(15), Timestamp::now()), Step::Wait);
        assert_eq!(me.plan(Some(&renewed), start + Duration::from_secs(29), Timestamp::now()), Step::Wait);
        let Step::Update(spec) = me.plan(Some(&renewed), start + Duration::from_secs(30), Timestamp::now())
        else {
            panic!("not taken");
        };
        assert_eq!(spec.holder_identity.as_deref(), Some("me"));
        assert_eq!(spec.lease_transitions, Some(4));
    }

    #[tokio::test]
    async fn a_free_or_own_lease_is_taken_at_once() {
        let mut me = election("me");
        let now = Instant::now();
        assert!(matches!(me.plan(None, now, Timestamp::now()), Step::Create(_)));
        assert!(matches!(me.plan(Some(&held_by("")), now, Timestamp::now()), Step::Update(_)));
        let Step::Update(spec) = me.plan(Some(&held_by("me")), now, Timestamp::now()) else {
            panic!("not renewed")
        };
        assert_eq!(spec.lease_transitions, Some(3));
    }
}
