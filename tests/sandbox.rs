//! The sandbox with well-behaved guests: the cache, the lab, settings.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use fleet::question::{Candidate, RollQuestion, Selection};
use policy::{
    Builtin, Cache, CacheCounts, CacheError, Fault, Limits, Mode, Sandbox, SandboxConfig, SettingsError,
};
use serde_json::json;

use crate::support::{sandbox, spark_roll};

/// A directory that is deleted with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("rollcall-{name}-{}", std::process::id()));
        // Left over from a killed run with the same process id.
        let _ = fs::remove_dir_all(&path);
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn with_cache(directory: &Scratch) -> Sandbox {
    let cache = Some(Cache::open(&directory.0).expect("a cache"));
    Sandbox::new(SandboxConfig { cache, ..SandboxConfig::default() }).expect("a sandbox")
}

fn counts(sandbox: &Sandbox) -> CacheCounts {
    sandbox.cache().expect("it has one").counts()
}

/// The one entry beside the key.
fn entry(directory: &Scratch) -> PathBuf {
    let entries =
        fs::read_dir(&directory.0).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut entries: Vec<_> =
        entries.filter(|path| path.file_name().is_some_and(|name| name != "key")).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0)
}

#[test]
fn compiled_code_is_kept_and_tampering_is_noticed() {
    let directory = Scratch::new("cache");
    let module = Builtin::SPARK_LOSS.component;

    let first = with_cache(&directory);
    first.load(module).expect("it loads");
    assert_eq!(counts(&first), CacheCounts { hits: 0, misses: 1, corrupt: 0 });
    let second = with_cache(&directory);
    second.load(module).expect("it loads");
    assert_eq!(counts(&second), CacheCounts { hits: 1, misses: 0, corrupt: 0 });

    // One flipped bit, and a truncated entry.
    let path = entry(&directory);
    let code = fs::read(&path).expect("an entry");
    let mut flipped = code.clone();
    flipped[code.len() / 2] ^= 1;
    for (damaged, what) in [(&flipped[..], "flipped"), (&code[..code.len() / 2], "cut"), (&[], "empty")] {
        fs::write(&path, damaged).expect("it can be written");
        let third = with_cache(&directory);
        third.load(module).expect("it is compiled again");
        assert_eq!(counts(&third), CacheCounts { hits: 0, misses: 0, corrupt: 1 }, "{what}");
        assert_eq!(fs::read(&path).expect("a new entry").len(), code.len(), "{what}");
    }

    // It was sealed with another key, so it was not written by this cache.
    fs::remove_file(directory.0.join("key")).expect("a key");
    let fourth = with_cache(&directory);
    fourth.load(module).expect("it is compiled again");
    assert_eq!(counts(&fourth).corrupt, 1);
}

#[test]
fn a_cache_that_others_can_write_is_refused() {
    let directory = Scratch::new("open-cache");
    fs::create_dir(&directory.0).expect("a directory");
    fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o770)).expect("its mode");
    let error = Cache::open(&directory.0).expect_err("others may write");
    assert!(matches!(error, CacheError::Mode { mode: 0o770, .. }), "{error}");
    assert!(error.to_string().ends_with("chmod 700 it"), "{error}");
}

fn question(size: u64) -> RollQuestion {
    let mut question = RollQuestion { picks_max: 1, ..RollQuestion::default() };
    for id in 1..=size {
        question.candidates.push(Candidate { id, total_duration_ms: id as i64 % 7, ..Candidate::default() });
    }
    question
}

#[test]
fn in_the_lab_a_decision_costs_the_same_every_time() {
    let lab = |fuel| {
        let config = SandboxConfig { mode: Mode::Lab { fuel }, ..SandboxConfig::default() };
        let lab = Sandbox::new(config).expect("a lab");
        let module = lab.load(Builtin::SPARK_ROLL.component).expect("it loads");
        (lab, module)
    };
    let (first, module) = lab(100_000_000);
    let settings = module.settings("OUTLIER", &json!({})).expect("it has no settings");
    let cost =
        |size| first.select(&module, "OUTLIER", &settings, &question(size)).cost.fuel.expect("it is counted");
    assert_eq!(cost(100), cost(100));
    assert!(cost(1_000) > cost(100));
    let (second, module) = lab(100_000_000);
    let again = second.select(&module, "OUTLIER", &settings, &question(100)).cost.fuel;
    assert_eq!(again, Some(cost(100)));
    // And when the budget is used up, the call ends.
    let budget = cost(100) - 1;
    let poor = Sandbox::new(SandboxConfig { mode: Mode::Lab { fuel: budget }, ..SandboxConfig::default() });
    let poor = poor.expect("a lab");
    // Describing itself fits into the budget only if it is not the more expensive part.
    if let Ok(module) = poor.load(Builtin::SPARK_ROLL.component) {
        let answer = poor.select(&module, "OUTLIER", &settings, &question(100)).answer;
        assert_eq!(answer, Err(Fault::Fuel { budget }));
    }
}

#[test]
fn instances_are_pooled_here_and_made_on_demand_where_address_space_is_short() {
    // Slots for so many calls need more address space than a process has.
    let config = SandboxConfig { calls_max: 100_000, ..SandboxConfig::default() };
    let short = Sandbox::new(config).expect("it falls back");
    assert!(!short.is_pooled());
    let module = short.load(Builtin::SPARK_ROLL.component).expect("it loads");
    let settings = module.settings("ID", &json!({})).expect("it has no settings");
    let answer = short.select(&module, "ID", &settings, &question(3)).answer;
    assert!(matches!(answer, Ok(Selection::Roll(_))), "{answer:?}");
}

#[test]
fn settings_are_checked_against_the_schema() {
    let module = spark_roll();
    let error = module.settings("OUTLIER", &json!({"sigma": 3})).expect_err("it has no settings");
    assert_eq!(error.to_string(), "/sigma: unknown setting; this policy has no settings");
    assert!(module.settings("OUTLIER", &json!("sigma")).is_err());
    let error = module.settings("OUTLYER", &json!({})).expect_err("there is no such policy");
    assert!(matches!(error, SettingsError::NoSuchPolicy { .. }));
    assert_eq!(sandbox().load(Builtin::SPARK_ROLL.component).expect("it loads").digest, module.digest);
}

#[test]
fn more_calls_than_permits_wait_for_their_turn() {
    let config = SandboxConfig { calls_max: 1, ..SandboxConfig::default() };
    let narrow = Sandbox::new(config).expect("a sandbox");
    let module = narrow.load(Builtin::SPARK_ROLL.component).expect("it loads");
    let settings = module.settings("ID", &json!({})).expect("it has no settings");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert!(narrow.select(&module, "ID", &settings, &question(10)).answer.is_ok());
                }
            });
        }
    });
}

#[test]
fn limits_are_the_documented_ones() {
    let limits = Limits::default();
    assert_eq!((limits.cpu.as_millis(), limits.wall().as_millis()), (50, 1_000));
    assert_eq!(limits.memory_bytes, 32 << 20);
}
