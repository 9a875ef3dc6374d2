//! Notices for users, as Kubernetes Events on the driver's pod.
//!
//! They may be lost, and must not delay anything: they wait in a short queue of their own, are dropped when it
//! is full, and are sent slowly. kube's recorder aggregates repeated Events into a series.

use std::time::Duration;

use fleet::action::{Notice, Reason};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::call::Place;

/// Notices in the queue; further ones are dropped.
const LINE_MAX: usize = 256;
/// Kubernetes' limit for a note.
const NOTE_MAX: usize = 1_024;
/// Kubernetes' limit for an action.
const ACTION_MAX: usize = 128;
const BETWEEN: Duration = Duration::from_millis(200);

/// Accepts notices without waiting.
#[derive(Clone)]
pub struct Notices(mpsc::Sender<(ObjectReference, Event)>);

impl Notices {
    /// Starts the queue; it ends when the last handle is dropped.
    pub fn start(client: Client, instance: &str) -> Notices {
        let (sender, mut line) = mpsc::channel::<(ObjectReference, Event)>(LINE_MAX);
        let reporter = Reporter { controller: "rollcall".to_owned(), instance: Some(instance.to_owned()) };
        let recorder = Recorder::new(client, reporter);
        tokio::spawn(async move {
            while let Some((about, event)) = line.recv().await {
                match timeout(Duration::from_secs(10), recorder.publish(&event, &about)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a Kubernetes Event was not taken"),
                    Err(_) => tracing::debug!("a Kubernetes Event was not answered"),
                }
                sleep(BETWEEN).await;
            }
        });
        Notices(sender)
    }

    /// Queues a notice; returns whether there was room. The Event's object is the driver's pod, and its related
    /// object the executor's; otherwise kube would aggregate all losses into one series.
    pub fn publish(&self, place: &Place, notice: &Notice) -> bool {
        let message = notice.executor.map_or_else(
            || format!("fleet {}: {}", place.fleet, notice.message),
            |executor| format!("fleet {}, executor {executor}: {}", place.fleet, notice.message),
        );
        let event = Event {
            type_: kind(notice.reason),
            reason: name(notice.reason).to_owned(),
            note: Some(message.chars().take(NOTE_MAX).collect()),
            action: "Rollcall".to_owned(),
            secondary: notice.pod.as_deref().map(|name| pod(place, name)),
        };
        self.0.try_send((driver(place), event)).is_ok()
    }

    /// Queues a notice that a user has given a command. The related object is the user, and the action is the command:
    /// only the same command of the same user becomes a series.
    pub fn commanded(&self, place: &Place, user: &str, command: &str, message: &str) -> bool {
        let secondary = ObjectReference {
            api_version: Some("rbac.authorization.k8s.io/v1".to_owned()),
            kind: Some("User".to_owned()),
            name: Some(user.to_owned()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Normal,
            reason: "Commanded".to_owned(),
            note: Some(format!("fleet {}: {message}", place.fleet).chars().take(NOTE_MAX).collect()),
            action: command.chars().take(ACTION_MAX).collect(),
            secondary: Some(secondary),
        };
        self.0.try_send((driver(place), event)).is_ok()
    }
}

fn pod(place: &Place, name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(name.to_owned()),
        namespace: Some(place.namespace.clone()),
        ..ObjectReference::default()
    }
}

fn driver(place: &Place) -> ObjectReference {
    ObjectReference { uid: Some(place.driver_uid.to_string()), ..pod(place, &place.driver) }
}

fn kind(reason: Reason) -> EventType {
    match reason {
        Reason::ExecutorReplaced
        | Reason::ExecutorRemoved
        | Reason::ExecutorHeardAgain
        | Reason::RollStarted
        | Reason::RollProposed
        | Reason::BreakerClosed
        | Reason::LedgerRestored
        | Reason::LedgerReset => EventType::Normal,
        Reason::ExecutorLost
        | Reason::FailedCreate
        | Reason::FailedDelete
        | Reason::RollAbandoned
        | Reason::BreakerOpened
        | Reason::FleetFailed
        | Reason::MassLoss
        | Reason::HearingImpaired
        | Reason::PolicyFault
        | Reason::PolicyNotAsked
        | Reason::PolicyQuarantined
        | Reason::SpecRefused
        | Reason::LedgerUnavailable
        | Reason::LedgerRefused => EventType::Warning,
    }
}

/// The Event's `reason`.
pub fn name(reason: Reason) -> &'static str {
    match reason {
        Reason::ExecutorReplaced => "ExecutorReplaced",
        Reason::ExecutorLost => "ExecutorLost",
        Reason::ExecutorRemoved => "ExecutorRemoved",
        Reason::ExecutorHeardAgain => "ExecutorHeardAgain",
        Reason::FailedCreate => "FailedCreate",
        Reason::FailedDelete => "FailedDelete",
        Reason::RollStarted => "RollStarted",
        Reason::RollProposed => "RollProposed",
        Reason::RollAbandoned => "RollAbandoned",
        Reason::BreakerOpened => "BreakerOpened",
        Reason::BreakerClosed => "BreakerClosed",
        Reason::FleetFailed => "FleetFailed",
        Reason::MassLoss => "MassLoss",
        Reason::HearingImpaired => "HearingImpaired",
        Reason::PolicyFault => "PolicyFault",
        Reason::PolicyNotAsked => "PolicyNotAsked",
        Reason::PolicyQuarantined => "PolicyQuarantined",
        Reason::SpecRefused => "SpecRefused",
        Reason::LedgerUnavailable => "LedgerUnavailable",
        Reason::LedgerRestored => "LedgerRestored",
        Reason::LedgerRefused => "LedgerRefused",
        Reason::LedgerReset => "LedgerReset",
    }
}

#[cfg(test)]
mod tests {
    use fleet::id::ExecutorId;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::Value;

    use super::*;
    use crate::call::tests::place;

    /// The Event for a notice, as the API server receives it.
    async fn published(notice: &Notice) -> Value {
        let (sender, mut events) = mpsc::channel(1);
        let server = tower::service_fn(move |request: Request<Body>| {
            let sender = sender.clone();
            async move {
                let body = request.into_body().collect_bytes().await.expect("a body");
                let _ = sender.send(body.to_vec()).await;
                Response::builder().status(201).body(Body::from(body.to_vec()))
            }
        });
        let notices = Notices::start(Client::new(server, "n"), "rollcall-0");
        assert!(notices.publish(&place(), notice));
        serde_json::from_slice(&events.recv().await.expect("an Event")).expect("JSON")
    }

    #[tokio::test]
    async fn an_event_is_about_the_driver_and_names_the_executors_pod_as_it_is_called() {
        let notice = Notice {
            reason: Reason::ExecutorLost,
            executor: Some(ExecutorId(7)),
            pod: Some("etl-5e7c0f8a-exec-7".into()),
            message: "evicted: gone".to_owned(),
        };
        let event = published(&notice).await;
        assert_eq!(event["regarding"]["name"], "d", "{event}");
        assert_eq!(event["related"]["name"], "etl-5e7c0f8a-exec-7", "{event}");
        assert_eq!(event["note"], "fleet f, executor 7: evicted: gone");
        // Spark named the pod, and it was never observed: no name is made up.
        let event = published(&Notice { pod: None, ..notice }).await;
        assert_eq!(event["related"], Value::Null, "{event}");
    }
}
