//! Documents are judged before they reach the loop, by policies that may take long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::Compiler;
use rollcall::config::FleetConfig;
use rollcall::daemon::{Judge, Judged, Policies};
use serde_json::{Value, json};

use super::support::document;
use crate::support::{guest, roll_policy};

/// The policy BAD, which checks its settings for a while, and then accepts them.
fn thinker() -> Vec<u8> {
    let quick = "(i32.store8 (i32.const 256) (i32.const 0))";
    let core = roll_policy("", "", "unreachable");
    assert!(core.contains(quick));
    let thinks = "(local $n i32) (loop $again
        (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100000000))))";
    guest(&core.replace(quick, &format!("{thinks} {quick}")), "")
}

fn policies(name: &str, module: &[u8]) -> Arc<Policies> {
    let dir = std::env::temp_dir().join(format!("rollcall-judge-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join("bad.wasm"), module).expect("a file");
    let policies = Policies::load(Some(dir.clone()), Compiler::Here).expect("the built-in ones");
    assert!(policies.refresh(), "{:?}", policies.refused());
    std::fs::remove_dir_all(&dir).expect("it is there");
    Arc::new(policies)
}

fn fleet(policies: Value) -> FleetConfig {
    document(3, |document| document["spec"]["policies"] = policies)
}

fn pending(judged: &[Judged]) -> usize {
    judged.iter().filter(|judged| judged.pending.is_some()).count()
}

#[test]
fn forty_fleets_of_a_slow_policy_hold_back_no_other() {
    let policies = policies("slow", &thinker());
    let mut fleets: Vec<FleetConfig> = (0..40).map(|at| fleet(json!({ "BAD": { "n": at } }))).collect();
    fleets.push(fleet(json!({ "OUTLIER": {} })));
    fleets.push(fleet(json!({ "OUTLIER": { "sigma": 3 } })));
    let mut judge = Judge::new(Arc::clone(&policies));
    let begun = Instant::now();
    let mut judged = judge.judge(&fleets);
    let first = begun.elapsed();
    assert!(first < Duration::from_secs(10), "{first:?}");
    assert!((1..40).contains(&pending(&judged)), "{} in {first:?}", pending(&judged));
    // Settings of other policies have their verdict.
    assert_eq!((judged[40].pending.as_ref(), judged[40].problems.len()), (None, 0));
    assert_eq!((judged[41].pending.as_ref(), judged[41].problems.len()), (None, 1));
    let mut rounds = 1;
    while pending(&judged) > 0 {
        let before = pending(&judged);
        judged = judge.judge(&fleets);
        assert!(pending(&judged) < before, "each round comes further");
        rounds += 1;
    }
    assert!(judged[..40].iter().all(|judged| judged.problems.is_empty()));
    let begun = Instant::now();
    assert_eq!(pending(&judge.judge(&fleets)), 0);
    println!("first round {first:?}, {rounds} rounds; when all is known {:?}", begun.elapsed());
    assert!(begun.elapsed() < first / 2, "it is remembered: {:?}, {first:?}", begun.elapsed());
}

#[test]
fn a_hundred_fleets_with_the_same_settings_are_one_question() {
    let policies = policies("same", &thinker());
    let fleets: Vec<FleetConfig> = (0..100).map(|_| fleet(json!({ "BAD": { "n": 1 } }))).collect();
    let begun = Instant::now();
    let judged = Judge::new(policies).judge(&fleets);
    println!("{:?}", begun.elapsed());
    assert_eq!((pending(&judged), judged.iter().map(|judged| judged.problems.len()).sum::<usize>()), (0, 0));
}
