//! A Lease that one process has at a time: read, decide ([`election`], pure), and make, take or renew it by a patch that only one
//! can win. It is a courtesy between two pods, no proof: the advisory locks on the target keep the data safe, whatever stands here.

mod election;
mod record;

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{Effect, Kubernetes, KubernetesError, Resource, ResourceName};
use crate::config::KubernetesAccess;

pub use election::{Decision, Election};
pub use record::{Holder, LeaseRecord};

/// How long a Lease is valid after each renewal. As client-go's default.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How often the holder renews it.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How often whoever waits looks at it, and how soon a renewal that failed is tried again.
pub const RETRY_EVERY: Duration = Duration::from_secs(2);
/// One look, with all of its requests; two fit into what is left of a Lease that was not renewed in time.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// Giving it back: whoever asked the program to stop waits for that.
const RELEASE_MAX: Duration = Duration::from_secs(2);

/// What a look has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is ours.
    Held,
    /// Somebody was faster, whoever it was: look again.
    Contended,
    /// It is somebody else's.
    HeldBy(Holder),
}

/// One process's way to a Lease.
#[derive(Debug)]
pub struct Lease {
    kubernetes: Kubernetes,
    name: String,
    election: Election,
}

impl Lease {
    /// Asks nobody yet. `identity` must be another for every process.
    #[must_use]
    pub const fn new(access: KubernetesAccess, name: String, identity: String) -> Self {
        Self { kubernetes: Kubernetes::new(access), name, election: Election::new(identity) }
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who we are in it.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.election.identity()
    }

    /// Looks at it, and does what is to be done. May be cut off at any moment: what became of it is seen by the next look.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn look(&mut self) -> Result<Standing, KubernetesError> {
        within(ANSWER_MAX, self.look_unbounded()).await
    }

    async fn look_unbounded(&mut self) -> Result<Standing, KubernetesError> {
        let what = self.kubernetes.named(Resource::Lease, &self.name).await?;
        let read = self.read(&what).await?;
        let decision = self.election.decide(read.as_ref(), Instant::now());
        let identity = self.election.identity();
        let now = Timestamp::now();
        let patch = match (&decision, &read) {
            (Decision::Wait(holder), _) => return Ok(Standing::HeldBy(holder.clone())),
            (Decision::Renew, Some(record)) => record.renewed(now),
            (Decision::TakeOver, Some(record)) => record.taken_by(identity, now),
            (Decision::Create | Decision::Renew | Decision::TakeOver, _) => {
                let lease = record::created(&self.name, identity, now);
                return match self.kubernetes.create(&what, &lease).await {
                    Ok(_) => Ok(Standing::Held),
                    Err(KubernetesError::Conflict { .. }) => Ok(Standing::Contended),
                    Err(error) => Err(error),
                };
            }
        };
        match self.kubernetes.patch(&what, &patch, Effect::Change).await {
            Ok(_) => Ok(Standing::Held),
            // Changed, or deleted, since it was read.
            Err(KubernetesError::Conflict { .. } | KubernetesError::Missing { .. }) => {
                Ok(Standing::Contended)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives it back, if it is ours, so that whoever waits can take it at once.
    ///
    /// # Errors
    /// As [`Self::look`]; it expires by itself then.
    pub async fn release(&self) -> Result<(), KubernetesError> {
        within(RELEASE_MAX, async {
            let what = self.kubernetes.named(Resource::Lease, &self.name).await?;
            let Some(record) = self.read(&what).await? else { return Ok(()) };
            if record.holder.as_deref() != Some(self.identity()) {
                return Ok(());
            }
            self.kubernetes.patch(&what, &record.released(Timestamp::now()), Effect::Change).await?;
            Ok(())
        })
        .await
    }

    async fn read(&self, what: &ResourceName) -> Result<Option<LeaseRecord>, KubernetesError> {
        let lease = match self.kubernetes.get(what).await {
            Ok(lease) => lease,
            Err(KubernetesError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let record = LeaseRecord::of(&lease).ok_or_else(|| KubernetesError::NotUnderstood {
            what: what.clone(),
            problem: "an object without a version".into(),
        })?;
        Ok(Some(record))
    }
}

/// An API server that takes longer is one that does not answer.
async fn within<T>(
    longest: Duration,
    asking: impl Future<Output = Result<T, KubernetesError>>,
) -> Result<T, KubernetesError> {
    match tokio::time::timeout(longest, asking).await {
        Ok(answer) => answer,
        Err(_) => {
            let timed_out = io::Error::from(io::ErrorKind::TimedOut);
            Err(KubernetesError::Unreachable { source: kube::Error::Service(timed_out.into()) })
        }
    }
}
