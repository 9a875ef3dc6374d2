//! The built-in policies in the sandbox always pick the same executor as Spark.

use std::cmp::Ordering;

use fleet::question::{Candidate, RollQuestion, Selection};
use policy::Question;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::support::{sandbox, spark_loss, spark_roll};

/// Spark's rules, written a second time and as literally as Rust allows: sort everything, reverse where Scala reverses,
/// take the head. It shares no code with the policy.
mod spark {
    use super::*;

    pub const POLICIES: [&str; 13] = [
        "ID",
        "ADD_TIME",
        "TOTAL_GC_TIME",
        "TOTAL_DURATION",
        "AVERAGE_DURATION",
        "FAILED_TASKS",
        "PEAK_JVM_ONHEAP_MEMORY",
        "PEAK_JVM_OFFHEAP_MEMORY",
        "TOTAL_SHUFFLE_WRITE",
        "DISK_USED",
        "ACTIVE_TASKS",
        "OUTLIER",
        "OUTLIER_NO_FALLBACK",
    ];

    pub fn choose(list: &[Candidate], policy: &str) -> Option<u64> {
        let list = list.to_vec();
        let sorted = match policy {
            "ID" => sort_by(list, |a, b| a.id.cmp(&b.id)),
            "ADD_TIME" => sort_by(list, |a, b| a.add_time_ms.cmp(&b.add_time_ms)),
            "TOTAL_GC_TIME" => reversed(list, |e| e.total_gc_time_ms),
            "TOTAL_DURATION" => reversed(list, |e| e.total_duration_ms),
            "AVERAGE_DURATION" => {
                let average =
                    |e: &Candidate| e.total_duration_ms as f32 / std::cmp::max(1, e.total_tasks) as f32;
                let mut list = sort_by(list, |a, b| float(average(a), average(b)));
                list.reverse();
                list
            }
            "FAILED_TASKS" => reversed(list, |e| e.failed_tasks.into()),
            "PEAK_JVM_ONHEAP_MEMORY" => reversed(list, |e| e.peak_jvm_onheap_bytes),
            "PEAK_JVM_OFFHEAP_MEMORY" => reversed(list, |e| e.peak_jvm_offheap_bytes),
            "TOTAL_SHUFFLE_WRITE" => reversed(list, |e| e.total_shuffle_write_bytes),
            "DISK_USED" => reversed(list, |e| e.disk_used_bytes),
            "ACTIVE_TASKS" => {
                sort_by(list, |a, b| (a.active_tasks, a.add_time_ms).cmp(&(b.active_tasks, b.add_time_ms)))
            }
            "OUTLIER" => {
                let mut found = outliers_from_multiple_dimensions(&list);
                found.extend(reversed(list, |e| e.total_duration_ms));
                found
            }
            "OUTLIER_NO_FALLBACK" => outliers_from_multiple_dimensions(&list),
            other => panic!("{other} is none of Spark's"),
        };
        sorted.first().map(|e| e.id)
    }

    fn sort_by(
        mut list: Vec<Candidate>,
        order: impl Fn(&Candidate, &Candidate) -> Ordering,
    ) -> Vec<Candidate> {
        list.sort_by(order);
        list
    }

    fn reversed(list: Vec<Candidate>, key: impl Fn(&Candidate) -> i64) -> Vec<Candidate> {
        let mut list = sort_by(list, |a, b| key(a).cmp(&key(b)));
        list.reverse();
        list
    }

    fn float(a: f32, b: f32) -> Ordering {
        a.partial_cmp(&b).expect("no NaN comes of dividing by at least one")
    }

    fn outliers_from_multiple_dimensions(list: &[Candidate]) -> Vec<Candidate> {
        let busy: Vec<Candidate> = list.iter().filter(|e| e.total_tasks > 0).cloned().collect();
        let mut all = outliers(&busy, |e| (e.total_duration_ms / e.total_tasks as i64) as f32);
        all.extend(outliers(list, |e| e.total_duration_ms as f32));
        all.extend(outliers(list, |e| e.total_gc_time_ms as f32));
        all.extend(outliers(list, |e| e.failed_tasks as f32));
        all.extend(outliers(list, |e| e.peak_jvm_onheap_bytes as f32));
        all.extend(outliers(list, |e| e.peak_jvm_offheap_bytes as f32));
        all.extend(outliers(list, |e| e.total_shuffle_write_bytes as f32));
        all.extend(outliers(list, |e| e.disk_used_bytes as f32));
        all
    }

    fn outliers(list: &[Candidate], get: impl Fn(&Candidate) -> f32) -> Vec<Candidate> {
        if list.is_empty() {
            return Vec::new();
        }
        let size = list.len() as f32;
        let mut sum = 0.0f32;
        for e in list {
            sum += get(e);
        }
        let mean = sum / size;
        let mut squares = 0.0f32;
        for e in list {
            squares += (get(e) - mean) * (get(e) - mean);
        }
        let sd = ((squares / size) as f64).sqrt();
        let beyond: Vec<Candidate> =
            list.iter().filter(|e| (get(e) - mean) as f64 > 2.0 * sd).cloned().collect();
        let mut beyond = sort_by(beyond, |a, b| float(get(a), get(b)));
        beyond.reverse();
        beyond
    }
}

/// A value from a pool that makes ties, extremes and single outliers likely.
fn value(random: &mut ChaCha8Rng, style: u32) -> i64 {
    match style {
        0 => 0,
        1 => 7,
        2 => random.random_range(0..3),
        3 => random.random_range(0..100_000),
        4 => {
            if random.random_range(0..20) == 0 {
                1_000_000
            } else {
                random.random_range(0..10)
            }
        }
        5 => i64::MAX - random.random_range(0..3),
        6 => {
            if random.random_range(0..15) == 0 {
                i64::MAX
            } else {
                0
            }
        }
        // Adjacent integers that a float cannot tell apart.
        7 => (1 << 53) + random.random_range(0..3),
        // Spark's counters have been observed to be negative.
        _ => random.random_range(-5..5),
    }
}

fn count(random: &mut ChaCha8Rng, style: u32) -> i32 {
    value(random, style).clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

fn random_fleet(random: &mut ChaCha8Rng) -> Vec<Candidate> {
    let size = random.random_range(0..=60);
    let mut style = || random.random_range(0..9);
    let styles: [u32; 12] = std::array::from_fn(|_| style());
    let mut ids: Vec<u64> = (1..=size).collect();
    for i in (1..ids.len()).rev() {
        ids.swap(i, random.random_range(0..=i));
    }
    ids.into_iter()
        .map(|id| Candidate {
            id,
            add_time_ms: value(random, styles[0]),
            active_tasks: count(random, styles[1]),
            failed_tasks: count(random, styles[2]),
            completed_tasks: count(random, styles[3]),
            total_tasks: count(random, styles[4]),
            total_duration_ms: value(random, styles[5]),
            total_gc_time_ms: value(random, styles[6]),
            total_shuffle_write_bytes: value(random, styles[7]),
            disk_used_bytes: value(random, styles[8]),
            peak_jvm_onheap_bytes: value(random, styles[9]),
            peak_jvm_offheap_bytes: value(random, styles[10]),
            memory_used_bytes: value(random, styles[11]),
            ..Candidate::default()
        })
        .collect()
}

fn question(candidates: &[Candidate]) -> RollQuestion {
    let mut question = RollQuestion { picks_max: 1, ..RollQuestion::default() };
    for candidate in candidates {
        question.candidates.push(candidate.clone());
    }
    question
}

#[test]
fn ten_thousand_random_fleets_get_sparks_pick_from_every_policy() {
    let module = spark_roll();
    let settings = module.settings("OUTLIER", &json!({})).expect("it has no settings");
    let mut random = ChaCha8Rng::seed_from_u64(37_810);
    let mut outliers = 0;
    let mut none = 0;
    for fleet in 0..10_000 {
        let candidates = random_fleet(&mut random);
        let question = question(&candidates);
        for policy in spark::POLICIES {
            let found =
                match sandbox().select(module, policy, &settings, &question).answer.expect("an answer") {
                    Selection::Roll(picks) => {
                        assert_eq!(picks.len(), 1, "one pick was asked for");
                        Some(candidates[picks[0].index].id)
                    }
                    Selection::Nothing(_) => None,
                    Selection::Abstain => panic!("Spark's policies do not abstain"),
                };
            let expected = spark::choose(&candidates, policy);
            assert_eq!(found, expected, "{policy} on fleet {fleet}: {candidates:#?}");
            outliers += usize::from(policy == "OUTLIER_NO_FALLBACK" && found.is_some());
            none += usize::from(policy == "OUTLIER_NO_FALLBACK" && found.is_none());
        }
    }
    println!("130000 decisions agree; of 10000 fleets {outliers} had an outlier");
    assert!(outliers > 1_000 && none > 1_000, "the fleets exercise both: {outliers} and {none}");
}

#[test]
fn the_modules_hold_sparks_policies_and_the_classifier() {
    let names: Vec<&str> = spark_roll().policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, spark::POLICIES);
    assert!(spark_roll().policies.iter().all(|policy| policy.question == Question::Roll));
    assert_eq!(spark_roll().worlds(), ["roll-policy"]);
    let names: Vec<&str> = spark_loss().policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["SPARK"]);
    assert_eq!(spark_loss().worlds(), ["loss-classifier"]);
}
