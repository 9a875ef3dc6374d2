//! The Lease for leader election: the election's requests as API calls.
//!
//! Every write is a PUT with the `resourceVersion` that was read, or a POST, so at most one of two competing
//! hosts succeeds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet::election::{ElectionOutcome, Lease};
use fleet::event::Outcome;
use fleet::id::Version;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::FIELD_MANAGER;
use crate::client::CALL_TIMEOUT;
use crate::outcome::within;
use crate::pod::revision;

/// Location of the Lease.
#[derive(Clone)]
pub struct LeaseApi {
    api: Api<k8s::Lease>,
    name: String,
    /// When the last warning about a failing Lease was logged.
    warned: Arc<Mutex<Option<Instant>>>,
    notes: Option<Notes>,
}

/// What the holder tells the other candidates: annotations of the Lease. Without a holder it has none.
#[derive(Clone, Debug)]
pub struct Notes {
    /// Ours, when we hold it.
    pub ours: BTreeMap<String, String>,
    /// Those of the current holder.
    pub seen: watch::Sender<BTreeMap<String, String>>,
}

impl Notes {
    fn see(&self, holder: &str, annotations: Option<&BTreeMap<String, String>>) {
        let annotations = annotations.filter(|_| !holder.is_empty()).cloned().unwrap_or_default();
        self.seen.send_if_modified(|seen| std::mem::replace(seen, annotations) != *seen);
    }
}

/// The Lease is tried every two seconds, and a failure is logged every half minute.
const WARNED_EVERY: Duration = Duration::from_secs(30);

impl LeaseApi {
    pub fn new(client: Client, namespace: &str, name: &str) -> LeaseApi {
        let warned = Arc::default();
        LeaseApi { api: Api::namespaced(client, namespace), name: name.to_owned(), warned, notes: None }
    }

    /// Reads and writes notes with the Lease.
    #[must_use]
    pub fn with_notes(self, notes: Notes) -> LeaseApi {
        LeaseApi { notes: Some(notes), ..self }
    }

    pub async fn read(&self) -> ElectionOutcome {
        match within(CALL_TIMEOUT, self.api.get(&self.name)).await {
            Ok(lease) => {
                let version = version(&lease.metadata);
                let annotations = lease.metadata.annotations.clone();
                let lease = view(lease);
                if let Some(notes) = &self.notes {
                    notes.see(&lease.holder, annotations.as_ref());
                }
                ElectionOutcome::Read(lease, version)
            }
            Err(outcome) => self.failed(outcome),
        }
    }

    pub async fn write(&self, lease: &Lease, over: Option<&Version>) -> ElectionOutcome {
        let mut object = object(&self.name, lease, over);
        let ours = self.notes.as_ref().filter(|_| !lease.holder.is_empty());
        object.metadata.annotations = ours.map(|notes| notes.ours.clone());
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = if over.is_some() {
            within(CALL_TIMEOUT, self.api.replace(&self.name, &params, &object)).await
        } else {
            within(CALL_TIMEOUT, self.api.create(&params, &object)).await
        };
        match written {
            Ok(stored) => {
                if let Some(notes) = &self.notes {
                    notes.see(&lease.holder, stored.metadata.annotations.as_ref());
                }
                ElectionOutcome::Written(version(&stored.metadata))
            }
            Err(outcome) => self.failed(outcome),
        }
    }
}

impl LeaseApi {
    fn failed(&self, outcome: Outcome) -> ElectionOutcome {
        let (answer, why) = match outcome {
            Outcome::AlreadyExists => return ElectionOutcome::AlreadyExists,
            Outcome::Conflict => return ElectionOutcome::Conflict,
            Outcome::NotFound => return ElectionOutcome::NotFound,
            Outcome::Throttled { after_ms } => return ElectionOutcome::Throttled { after_ms },
            Outcome::Ok(_) | Outcome::Budget => return ElectionOutcome::Unknown,
            Outcome::Forbidden(why) => (ElectionOutcome::Forbidden, why),
            Outcome::Invalid(why) | Outcome::Unknown(why) => (ElectionOutcome::Unknown, why),
        };
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() > WARNED_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!(lease = self.name, why, "the Lease cannot be used; without it nothing is done");
        }
        answer
    }
}

fn version(meta: &ObjectMeta) -> Version {
    // Without a version there is no compare-and-swap: 0 never matches.
    debug_assert!(revision(meta.resource_version.as_deref()) > 0, "an object that is stored has a version");
    Version(meta.resource_version.as_deref().unwrap_or("0").into())
}

fn view(lease: k8s::Lease) -> Lease {
    let spec = lease.spec.unwrap_or_default();
    let ms = |time: Option<MicroTime>| time.map_or(0, |MicroTime(time)| time.as_millisecond());
    let number =
        |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default();
    Lease {
        holder: spec.holder_identity.unwrap_or_default().into(),
        duration_s: number(spec.lease_duration_seconds),
        acquired_ms: ms(spec.acquire_time),
        renewed_ms: ms(spec.renew_time),
        transitions: number(spec.lease_transitions),
    }
}

fn object(name: &str, lease: &Lease, over: Option<&Version>) -> k8s::Lease {
    let time = |ms: i64| Timestamp::from_millisecond(ms).ok().map(MicroTime);
    let number = |number: u32| Some(i32::try_from(number).unwrap_or(i32::MAX));
    k8s::Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: over.map(|Version(version)| version.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(k8s::LeaseSpec {
            holder_identity: Some(lease.holder.to_string()).filter(|holder| !holder.is_empty()),
            // 0 is not valid: a released Lease has 1, as with client-go.
            lease_duration_seconds: number(lease.duration_s.max(1)),
            acquire_time: time(lease.acquired_ms),
            renew_time: time(lease.renewed_ms),
            lease_transitions: number(lease.transitions),
            ..k8s::LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_survives_the_wire_field_for_field() {
        let lease = Lease {
            holder: "host-1_0007".into(),
            duration_s: 15,
            acquired_ms: 1_767_323_045_123,
            renewed_ms: 1_767_323_046_456,
            transitions: 4,
        };
        let version = Version("12".into());
        let object = object("rollcall", &lease, Some(&version));
        let text = serde_json::to_string(&object).unwrap();
        assert!(text.contains("\"resourceVersion\":\"12\""), "{text}");
        assert_eq!(view(serde_json::from_str(&text).unwrap()), lease);
    }
}
