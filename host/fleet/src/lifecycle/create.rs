//! The outcome of a create, and of the GETs that resolve an unknown one.
//!
//! An id is used for a single create request. A create with unknown outcome is never repeated: a GET looks for
//! the pod, and if it does not exist the executor gets a *new* id, because the old request may still arrive.
//! Its place under the ceiling stays reserved until it cannot arrive any more, and a last GET confirms that it
//! has not. An id whose create was definitely refused was never used, and becomes the next one again.

use crate::action::Reason;
use crate::backoff::Backoff;
use crate::executor::{Confirmation, Executor, Stage, kept};
use crate::injected_bug::InjectedBug;
use crate::lifecycle::effect::{Context, Effect};
use crate::lifecycle::end::mark_lost;
use crate::lifecycle::pod::follow;
use crate::lifecycle::start::pod_exists;
use crate::observed::PodView;
use crate::outcomes::{CreateOutcome, GetOutcome};
use crate::question::Trigger;
use crate::timing::LATE_REQUEST_MS;

pub(crate) fn create_finished(executor: &mut Executor, outcome: CreateOutcome, cx: &mut Context<'_>) {
    match outcome {
        CreateOutcome::Created(pod) => created(executor, *pod, cx),
        CreateOutcome::NameTaken if cx.env.has_bug(InjectedBug::TakenIsOurs) => pod_exists(executor, cx),
        CreateOutcome::NameTaken => doubt(executor, true, cx),
        CreateOutcome::Unknown(_) if cx.env.has_bug(InjectedBug::CreateRepeated) => {
            cx.add(Effect::NotCreated { after_ms: None, why: None });
        }
        CreateOutcome::Unknown(why) => {
            cx.add(Effect::CreateInDoubt(why));
            doubt(executor, false, cx);
        }
        CreateOutcome::Refused { after_ms, why } => cx.add(Effect::NotCreated { after_ms, why }),
    }
}

fn doubt(executor: &mut Executor, taken: bool, cx: &mut Context<'_>) {
    let confirmation = Confirmation { taken, get: None, backoff: Backoff::new(1_000, 30_000) };
    executor.enter(Stage::AwaitingConfirmation(confirmation), cx.now(), cx.now());
}

/// The pod was created by our request.
pub(crate) fn created(executor: &mut Executor, pod: PodView, cx: &mut Context<'_>) {
    let foreign = !cx.env.is_ours(&pod) || !pod.selected;
    executor.pod = Some(kept(pod));
    pod_exists(executor, cx);
    if foreign {
        let why = "admission changed its owner, name or labels: it cannot be looked after";
        cx.publish(Reason::FailedCreate, why.to_owned());
        cx.add(Effect::CreateFailed);
        mark_lost(executor, Trigger::PodMissing, cx);
    } else {
        cx.add(Effect::CreateSucceeded);
        follow(executor, cx);
    }
}

/// The GET of a create in doubt has finished.
pub(crate) fn confirmed(executor: &mut Executor, outcome: GetOutcome, cx: &mut Context<'_>) {
    let Stage::AwaitingConfirmation(confirmation) = &mut executor.stage else { return };
    match outcome {
        GetOutcome::Found(pod) if cx.env.is_ours(&pod) => created(executor, *pod, cx),
        GetOutcome::Found(_) => {
            cx.publish(Reason::FailedCreate, "its name is taken by another pod".to_owned());
            cx.add(Effect::StartForgotten);
            cx.add(Effect::Forget);
        }
        GetOutcome::NotFound if confirmation.taken => {
            cx.add(Effect::StartForgotten);
            cx.add(Effect::Forget);
        }
        GetOutcome::NotFound if cx.env.has_bug(InjectedBug::LateCreateForgotten) => cx.add(Effect::Forget),
        GetOutcome::NotFound => {
            cx.add(Effect::StartForgotten);
            executor.enter(Stage::CreateUnknown, cx.now(), cx.now() + LATE_REQUEST_MS);
        }
        GetOutcome::Failed => {
            confirmation.get = None;
            let wait_ms = confirmation.backoff.failed_ms(cx.seed);
            executor.wake = cx.now() + wait_ms;
        }
    }
}
