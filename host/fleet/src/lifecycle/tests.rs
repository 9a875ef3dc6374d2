//! Each test runs transitions of one executor, and compares stages and effects.

use crate::action::{Cause, Reason, Verb};
use crate::executor::{Executor, Stage, Then};
use crate::fixtures::{World, at, executor, pod, requested, terminating, world};
use crate::guardrail::{Permits, Refusal};
use crate::id::{ActionId, ExecutorId};
use crate::ledger::{End, Ledger};
use crate::lifecycle::create::{confirmed, create_finished};
use crate::lifecycle::due::{attend, pod_verified};
use crate::lifecycle::end::{mark_lost, record_removal_intent, recorded, settle, stop_keeping, undetermined};
use crate::lifecycle::pod::{adopt, cancel_removal, found, pod_changed, pod_gone, vanished};
use crate::lifecycle::removal::{Clearance, remove, remove_finished};
use crate::lifecycle::start::heard;
use crate::lifecycle::{Context, Effect};
use crate::observed::Phase;
use crate::outcomes::{CreateOutcome, GetOutcome, RemoveOutcome};
use crate::question::{DeletionCause, LossKind, Trigger};
use crate::spec::RollSpec;
use crate::time::Instant;

fn lost(trigger: Trigger, served: bool) -> Effect {
    Effect::Lost { trigger, served, released: false, target: 2 }
}

fn created(pod: crate::observed::PodView) -> CreateOutcome {
    CreateOutcome::Created(Box::new(pod))
}

// ------------------------------------------------------------------------------------------ start --

#[test]
fn a_created_pod_starts_registers_and_becomes_available_once() {
    let (mut world, mut one) = (world(2), requested());
    let outcome = created(pod(1, 1, Phase::Pending));
    let after = world.run(&mut one, |one, cx| create_finished(one, outcome, cx));
    assert_eq!(after, ("awaiting-start", vec![Effect::RecordCreated, Effect::CreateSucceeded]));
    let after = world.run(&mut one, |one, cx| pod_changed(one, pod(1, 2, Phase::Running), cx));
    assert_eq!(after, ("awaiting-registration", vec![]));
    let after = world.run(&mut one, |one, cx| heard(one, vec![(1, 0.5)], cx));
    assert_eq!(after, ("available", vec![Effect::Started]));
    assert!(one.facts.is_some_and(|facts| facts.metrics[0].is_nan() && facts.metrics[1] == 0.5));
}

#[test]
fn an_older_state_of_the_pod_changes_nothing() {
    let (mut world, mut one) = (world(2), executor(1, Stage::Available));
    let after = world.run(&mut one, |one, cx| pod_changed(one, pod(1, 1, Phase::Failed), cx));
    assert_eq!(after, ("available", vec![]));
}

#[test]
fn a_taken_name_is_resolved_by_a_get_and_the_id_is_forgotten() {
    let (mut world, mut one) = (world(2), requested());
    let after = world.run(&mut one, |one, cx| create_finished(one, CreateOutcome::NameTaken, cx));
    assert_eq!(after, ("awaiting-confirmation", vec![]));
    assert_eq!(world.run(&mut one, attend).1, [Effect::ConfirmCreate]);
    let after = world.run(&mut one, |one, cx| confirmed(one, GetOutcome::NotFound, cx));
    assert_eq!(after.1, [Effect::StartForgotten, Effect::Forget]);
}

#[test]
fn a_create_in_doubt_keeps_its_place_until_it_cannot_arrive_any_more() {
    let (mut world, mut one) = (world(2), requested());
    let unknown = CreateOutcome::Unknown("reset".to_owned());
    let after = world.run(&mut one, |one, cx| create_finished(one, unknown, cx));
    assert_eq!(after, ("awaiting-confirmation", vec![Effect::CreateInDoubt("reset".to_owned())]));
    let after = world.run(&mut one, |one, cx| confirmed(one, GetOutcome::NotFound, cx));
    assert_eq!(after, ("create-unknown", vec![Effect::StartForgotten]));
    assert_eq!(one.wake, at(61));
    assert_eq!(world.run(&mut one, attend).1, [], "too early");
    world.now = at(61);
    assert_eq!(world.run(&mut one, attend).1, [Effect::VerifyPod]);
    let after = world.run(&mut one, |one, cx| pod_verified(one, GetOutcome::NotFound, cx));
    assert_eq!(after.1, [Effect::Forget]);
}

#[test]
fn a_failed_get_is_repeated_after_a_back_off() {
    let (mut world, mut one) = (world(2), requested());
    world.run(&mut one, |one, cx| create_finished(one, CreateOutcome::NameTaken, cx));
    let after = world.run(&mut one, |one, cx| confirmed(one, GetOutcome::Failed, cx));
    assert_eq!(after, ("awaiting-confirmation", vec![]));
    assert!(one.wake > world.now && one.wake <= world.now + 1_000);
}

#[test]
fn a_refused_create_returns_its_id() {
    let (mut world, mut one) = (world(2), requested());
    let refused = CreateOutcome::Refused { after_ms: Some(5), why: None };
    let after = world.run(&mut one, |one, cx| create_finished(one, refused, cx));
    assert_eq!(after.1, [Effect::NotCreated { after_ms: Some(5), why: None }]);
}

#[test]
fn a_pod_that_admission_changed_is_lost() {
    let (mut world, mut one) = (world(2), requested());
    let mut foreign = pod(1, 1, Phase::Pending);
    foreign.owner = Some("another".into());
    let (stage, effects) = world.run(&mut one, |one, cx| create_finished(one, created(foreign), cx));
    assert_eq!(stage, "awaiting-reason");
    assert_eq!(effects[2..], [Effect::CreateFailed, lost(Trigger::PodMissing, true), Effect::AskWhy]);
}

#[test]
fn a_pod_that_is_late_is_verified_and_then_given_up() {
    let (mut world, mut one) = (world(2), requested());
    let pending = pod(1, 1, Phase::Pending);
    let outcome = created(pending.clone());
    world.run(&mut one, |one, cx| create_finished(one, outcome, cx));
    world.now = at(602);
    assert_eq!(world.run(&mut one, attend).1, [Effect::StartOverdue { unheard: false }]);
    let found = GetOutcome::Found(Box::new(pending));
    let after = world.run(&mut one, |one, cx| pod_verified(one, found, cx));
    let timeout = lost(Trigger::PendingTimeout, true);
    assert_eq!(after, ("awaiting-reason", vec![Effect::PendingTimeout, timeout, Effect::AskWhy]));
}

// ----------------------------------------------------------------------------------------- losses --

#[test]
fn a_second_report_of_a_loss_changes_nothing() {
    let (mut world, mut one) = (world(2), executor(1, Stage::Available));
    let after = world.run(&mut one, |one, cx| pod_changed(one, pod(1, 2, Phase::Failed), cx));
    assert_eq!(after, ("awaiting-reason", vec![lost(Trigger::PodFailed, true), Effect::AskWhy]));
    let after = world.run(&mut one, |one, cx| mark_lost(one, Trigger::DriverRemoved, cx));
    assert_eq!(after, ("awaiting-reason", vec![]));
    let after = world.run(&mut one, |one, cx| pod_gone(one, &pod(1, 3, Phase::Failed), cx));
    assert_eq!(after, ("awaiting-reason", vec![Effect::QuotaFreed]));
}

#[test]
fn silence_is_a_suspicion_until_the_executor_is_heard() {
    let (mut world, mut one) = (world(2), executor(1, Stage::Available));
    one.timer.heard(at(1));
    world.now = at(121);
    assert_eq!(world.run(&mut one, attend).1, [], "strictly more than the timeout");
    world.now = one.wake;
    assert_eq!(world.run(&mut one, attend).1, [Effect::Silent]);
    world.run(&mut one, |one, cx| mark_lost(one, Trigger::HeartbeatTimeout, cx));
    let given_up = world.now;
    world.now = at(130);
    let (stage, effects) = world.run(&mut one, |one, cx| heard(one, vec![], cx));
    assert_eq!(stage, "available");
    assert_eq!(effects[0], Effect::HeardAgain { lost: given_up });
    assert!(matches!(effects[1], Effect::Publish(Reason::ExecutorHeardAgain, _)), "and not Started again");
}

#[test]
fn checks_are_used_up() {
    let (mut world, mut one) = (world(2), executor(1, Stage::Available));
    world.run(&mut one, |one, cx| mark_lost(one, Trigger::PodMissing, cx));
    let mut checks = 0;
    let mut over = false;
    while !over {
        world.run(&mut one, |one, cx| over = undetermined(one, cx));
        checks += 1;
    }
    assert_eq!(checks, 11, "ten may be undetermined");
    assert_eq!(one.wake, at(2), "the last one sets no other");
}

#[test]
fn an_end_is_acted_on_when_it_is_recorded() {
    for (then, stage, effects) in [
        (Then::Keep, "kept", vec![Effect::LimitKept]),
        (Then::Clear, "awaiting-removal", vec![]),
        (Then::Forget, "awaiting-record", vec![Effect::Forget]),
    ] {
        let (mut world, mut one) = (world(2), executor(1, Stage::Available));
        let end = End::Lost(LossKind::AppFailure);
        let after = world.run(&mut one, |one, cx| settle(one, end.clone(), then, cx));
        let keep = then == Then::Keep;
        assert_eq!(after, ("awaiting-record", vec![Effect::RecordEnd { end, keep, mark: 7 }]));
        assert_eq!(world.run(&mut one, |one, cx| recorded(one, 6, cx)).1, [], "an earlier write");
        assert_eq!(world.run(&mut one, |one, cx| recorded(one, 7, cx)), (stage, effects));
    }
    let (mut world, mut one) = (world(2), executor(1, Stage::Kept));
    assert_eq!(world.run(&mut one, stop_keeping), ("awaiting-removal", vec![Effect::KeepNoMore]));
}

// --------------------------------------------------------------------------------------- removals --

fn permitted(roll: &RollSpec) -> Clearance<'_> {
    Clearance {
        permits: Permits { change: Ok(()), shrink: Ok(()), disrupt: Ok(()) },
        roll,
        available: 3,
        floor: 2,
        rate_permits_at: Instant::START,
    }
}

/// An executor whose removal by a roll is recorded.
fn leaving(world: &mut World) -> Executor {
    let mut one = executor(1, Stage::Rolling);
    let intent = |one: &mut Executor, cx: &mut Context<'_>| {
        record_removal_intent(one, DeletionCause::Roll, cx);
    };
    let effect = Effect::RecordRemoval { cause: DeletionCause::Roll, mark: 7 };
    assert_eq!(world.run(&mut one, intent), ("awaiting-announcement", vec![effect]));
    world.leaving = Some(DeletionCause::Roll);
    assert_eq!(world.run(&mut one, |one, cx| recorded(one, 7, cx)), ("terminating", vec![]));
    one
}

#[test]
fn a_roll_evicts_the_pod_with_its_uid_and_ends_with_it() {
    let (mut world, roll) = (world(2), RollSpec::new("p"));
    let mut one = leaving(&mut world);
    let (_, effects) = world.run(&mut one, |one, cx| remove(one, &permitted(&roll), cx));
    let verb = Verb::EvictPod {
        executor: ExecutorId(1),
        pod: "f-exec-1".into(),
        uid: "uid-1".into(),
        grace_ms: None,
    };
    assert_eq!(effects, [Effect::RequestRemoval { cause: Cause::Rolled(ExecutorId(1)), verb }]);
    world.run(&mut one, |one, cx| remove_finished(one, RemoveOutcome::Accepted, cx));
    let (stage, effects) = world.run(&mut one, |one, cx| vanished(one, Trigger::PodDeleted, cx));
    let end = End::Removed(DeletionCause::Roll);
    assert_eq!(stage, "awaiting-record");
    assert_eq!(effects, [Effect::QuotaFreed, Effect::RecordEnd { end, keep: false, mark: 7 }]);
}

#[test]
fn a_pod_that_ends_before_its_eviction_is_requested_is_lost() {
    let mut world = world(2);
    let mut one = leaving(&mut world);
    let (stage, effects) = world.run(&mut one, |one, cx| vanished(one, Trigger::PodDeleted, cx));
    assert_eq!(stage, "awaiting-reason");
    assert_eq!(effects[1], lost(Trigger::PodDeleted, false));
}

#[test]
fn a_budget_is_reported_once_and_the_roll_is_cancelled_at_its_timeout() {
    let (mut world, roll) = (world(2), RollSpec::new("p"));
    let mut one = leaving(&mut world);
    let refused = |one: &mut Executor, cx: &mut Context<'_>| {
        remove_finished(one, RemoveOutcome::OverBudget, cx);
    };
    let (_, effects) = world.run(&mut one, refused);
    assert_eq!(effects[0], Effect::Refused(Refusal::DisruptionBudget));
    assert_eq!(one.wake, at(11));
    assert_eq!(world.run(&mut one, refused).1, []);
    world.now = at(1) + roll.timeout_ms;
    let (stage, effects) = world.run(&mut one, |one, cx| remove(one, &permitted(&roll), cx));
    assert_eq!(stage, "awaiting-registration", "it starts again from its pod's state");
    let cause = Some(DeletionCause::Roll);
    assert_eq!(effects, [Effect::CancelRemoval { cause, why: "refused for too long" }]);
}

#[test]
fn a_removal_waits_for_what_the_fleet_needs() {
    let (mut world, roll) = (world(2), RollSpec::new("p"));
    let mut one = leaving(&mut world);
    let mut clearance = permitted(&roll);
    clearance.permits.disrupt = Err(Refusal::MassLoss);
    assert_eq!(world.run(&mut one, |one, cx| remove(one, &clearance, cx)).1, []);
    assert_eq!(one.wake, at(2));
    clearance.rate_permits_at = at(9);
    world.run(&mut one, |one, cx| remove(one, &clearance, cx));
    assert_eq!(one.wake, at(9));
    let short = Clearance { available: 1, ..permitted(&roll) };
    let (_, effects) = world.run(&mut one, |one, cx| remove(one, &short, cx));
    assert!(matches!(effects[..], [Effect::CancelRemoval { .. }]));
}

#[test]
fn a_deletion_with_unknown_outcome_is_repeated() {
    let (mut world, roll) = (world(2), RollSpec::new("p"));
    let mut one = leaving(&mut world);
    let unknown = |one: &mut Executor, cx: &mut Context<'_>| {
        remove_finished(one, RemoveOutcome::Unknown("reset".to_owned()), cx);
    };
    assert!(matches!(world.run(&mut one, unknown).1[..], [Effect::Publish(Reason::FailedDelete, _)]));
    assert_eq!(world.run(&mut one, unknown).1, [], "reported once");
    world.now = at(1) + roll.timeout_ms;
    world.run(&mut one, unknown);
    let (_, effects) = world.run(&mut one, |one, cx| remove(one, &permitted(&roll), cx));
    assert!(matches!(effects[..], [Effect::RequestRemoval { .. }]), "it may still be applied: not cancelled");
}

#[test]
fn a_deletion_by_another_client_is_a_loss_and_ends_no_roll() {
    let mut world = world(2);
    for (stage, name) in [(Stage::Available, "terminating"), (Stage::Rolling, "rolling")] {
        let mut one = executor(1, stage);
        let after = world.run(&mut one, |one, cx| pod_changed(one, terminating(1, 2), cx));
        assert_eq!(after, (name, vec![Effect::OweReplacement]));
        assert!(!one.stage.serves());
        one.end_roll();
        assert_eq!(one.stage.name(), "terminating");
        let (_, effects) = world.run(&mut one, |one, cx| pod_gone(one, &terminating(1, 3), cx));
        assert_eq!(effects, [Effect::QuotaFreed, lost(Trigger::PodDeleted, false), Effect::AskWhy]);
    }
}

#[test]
fn a_recalled_executor_serves_again() {
    let mut world = world(2);
    world.leaving = Some(DeletionCause::ScaleDown);
    let mut one = executor(1, Stage::AwaitingAnnouncement { cause: DeletionCause::ScaleDown, mark: 3 });
    one.timer.heard(at(1));
    let (stage, effects) = world.run(&mut one, |one, cx| cancel_removal(one, "wanted again", cx));
    assert_eq!(stage, "available");
    let cause = Some(DeletionCause::ScaleDown);
    assert_eq!(effects, [Effect::CancelRemoval { cause, why: "wanted again" }]);
}

// --------------------------------------------------------------------------------------- adoption --

#[test]
fn a_found_pod_is_adopted_and_a_settled_one_is_cleared_away() {
    let mut world = world(2);
    let mut ledger = Ledger::default();
    let running = || pod(1, 1, Phase::Running);
    let one = found(ExecutorId(1), running(), &ledger, world.env());
    let Some(mut one) = one else { panic!("it is adopted") };
    let after = world.run(&mut one, adopt);
    assert_eq!(after, ("awaiting-registration", vec![Effect::RecordCreated, Effect::Note("found".into())]));
    ledger.settled.insert(ExecutorId(1));
    let Some(mut one) = found(ExecutorId(1), running(), &ledger, world.env()) else { panic!("ours") };
    assert_eq!(world.run(&mut one, adopt), ("awaiting-removal", vec![]));
    let roll = RollSpec::new("p");
    let (_, effects) = world.run(&mut one, |one, cx| remove(one, &permitted(&roll), cx));
    assert_eq!(effects, [Effect::VerifyPod], "this state may be old");
    one.verifying = Some(ActionId(1));
    let found = GetOutcome::Found(Box::new(running()));
    world.run(&mut one, |one, cx| pod_verified(one, found, cx));
    assert_eq!((one.wake, one.verifying), (world.now, None), "it was not deleted: request that now");
}
