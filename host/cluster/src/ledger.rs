//! The ledger as a ConfigMap, owned by the driver's pod so that it ends with the application.
//!
//! One key, one JSON document that a person can read. Sets of ids are written as ranges, `1-7,9`. Unknown
//! fields written by a newer version are kept and written back. The API server does the compare-and-swap: a PUT
//! with the `resourceVersion` that was read, or a POST.
//!
//! A tenant with write access to ConfigMaps in the namespace can write this one, so it is treated as untrusted
//! input: bounds are checked before it is parsed, and the core's own [`Ledger::check`] after it.

use std::collections::BTreeMap;

use fleet::event::{Done, Outcome};
use fleet::id::{ExecutorId, IdSet, Version};
use fleet::ledger::{Flaw, Ledger, RUNS_MAX, Requested, Salvage};
use fleet::question::{DeletionCause, LossKind};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Map, Value, json};

use crate::FIELD_MANAGER;

pub const KEY: &str = "ledger";
/// The API server's size limit for a ConfigMap.
const TEXT_BYTES_MAX: usize = 1 << 20;
const ELEMENTS_MAX: usize = 150_000;
const DEPTH_MAX: usize = 16;

/// The object's data.
pub fn data(ledger: &Ledger) -> BTreeMap<String, String> {
    BTreeMap::from([(KEY.to_owned(), encode(ledger))])
}

/// What was read, as an outcome for the core. A record that cannot be read is an error and must not be treated
/// as an empty one: ids would be used twice.
pub fn read(map: &ConfigMap) -> Outcome {
    let text = map.data.as_ref().and_then(|data| data.get(KEY));
    let Some(version) = &map.metadata.resource_version else {
        return Outcome::Invalid("the ledger's ConfigMap has no resourceVersion".to_owned());
    };
    let version = Version(version.as_str().into());
    let refused =
        |why: String, salvage| Outcome::Ok(Done::LedgerRefused { why, version: version.clone(), salvage });
    let Some(text) = text else {
        return refused(format!("it has no key `{KEY}`"), Salvage::default());
    };
    let ledger = match decode(text) {
        Ok(ledger) => ledger,
        Err(flaw) => return refused(flaw.to_string(), salvage(text)),
    };
    Outcome::Ok(Done::Ledger { ledger: Box::new(ledger), version, edited: edited(map) })
}

/// Was it last written by another field manager? A field belongs to the manager that wrote it last. Without
/// `managedFields` the answer is no.
fn edited(map: &ConfigMap) -> bool {
    let mut managers = map.metadata.managed_fields.iter().flatten().peekable();
    let ours = |entry: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
        let field = entry.fields_v1.as_ref().and_then(|fields| fields.0.pointer(&format!("/f:data/f:{KEY}")));
        entry.manager.as_deref() == Some(FIELD_MANAGER) && field.is_some()
    };
    managers.peek().is_some() && !managers.any(ours)
}

// ----------------------------------------------------------------------------------------- the JSON --

pub fn encode(ledger: &Ledger) -> String {
    let mut object = Map::new();
    // First, so that our fields override fields of a newer version with the same name.
    for (name, value) in &ledger.others {
        object.insert(name.to_string(), serde_json::from_str(value).unwrap_or(Value::Null));
    }
    let leaving = ledger.leaving.iter().map(|(id, cause)| (id.to_string(), json!(cause.name())));
    let lost = ledger.lost.iter().map(|(kind, count)| (kind.name().to_owned(), json!(count)));
    let removed = ledger.removed.iter().map(|(cause, count)| (cause.name().to_owned(), json!(count)));
    let fields = [
        ("epoch", json!(ledger.epoch)),
        // As text: not every JSON parser has 64-bit numbers.
        ("leader", json!(format!("{:016x}", ledger.leader))),
        ("writes", json!(ledger.writes)),
        ("reserved", json!(ledger.reserved.0)),
        ("revision", json!(ledger.revision)),
        ("created", json!(ledger.created)),
        ("born", json!(runs(&ledger.born))),
        ("settled", json!(runs(&ledger.settled))),
        ("kept", json!(runs(&ledger.kept))),
        ("leaving", Value::Object(leaving.collect())),
        ("lost", Value::Object(lost.collect())),
        ("removed", Value::Object(removed.collect())),
        ("failures", json!(ledger.failures)),
        ("failed", json!(ledger.failed)),
        ("paused", json!(ledger.paused)),
        ("suspect", json!(ledger.suspect)),
        (
            "requested",
            ledger.requested.map_or(
                Value::Null,
                |requested| json!({"total": requested.total, "specTarget": requested.spec_target}),
            ),
        ),
    ];
    object.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    Value::Object(object).to_string()
}

/// The record, if a fleet can continue from it. A tenant may have written it.
pub fn decode(text: &str) -> Result<Ledger, Flaw> {
    fence(text)?;
    let mut fields = Fields(serde_json::from_str(text).map_err(|error| {
        // Only the position, not the message: that may quote arbitrary text.
        let (line, column) = (error.line(), error.column());
        flaw(KEY, format!("is no JSON object, by line {line}, column {column}"))
    })?);
    let ledger = Ledger {
        epoch: fields.number("epoch")?,
        leader: fields.leader()?,
        writes: fields.number("writes")?,
        reserved: ExecutorId(fields.number("reserved")?),
        revision: fields.number("revision")?,
        created: fields.number("created")?,
        born: fields.set("born")?,
        settled: fields.set("settled")?,
        kept: fields.set("kept")?,
        leaving: fields
            .map("leaving", |id, cause| Some((ExecutorId(id.parse().ok()?), named(cause.as_str()?)?)))?,
        lost: fields.map("lost", |name, count| Some((LossKind::named(name), count.as_u64()?)))?,
        removed: fields.map("removed", |name, count| Some((named(name)?, count.as_u64()?)))?,
        failures: serde_json::from_value(fields.take("failures")?)
            .map_err(|_| flaw("failures", "is no list of pairs of a time and a number".to_owned()))?,
        failed: fields.truth("failed")?,
        paused: fields.truth("paused")?,
        suspect: fields.truth("suspect")?,
        requested: fields.requested()?,
        // The remaining fields.
        others: fields.0.into_iter().map(|(name, value)| (name.into(), value.to_string().into())).collect(),
    };
    ledger.check()?;
    Ok(ledger)
}

/// The parts of a rejected record that may still be used.
fn salvage(text: &str) -> Salvage {
    let object: Map<String, Value> =
        fence(text).ok().and_then(|()| serde_json::from_str(text).ok()).unwrap_or_default();
    let number = |name: &str| object.get(name).and_then(Value::as_u64);
    Salvage::new(number("epoch"), number("reserved"))
}

/// Checked before parsing: the parsed form is about forty times as large as its text, if the text is nothing
/// but commas.
///
/// A fleet of 10,000 executors with scattered ids, all of them leaving, has 450 KB and 10,000 elements; a set
/// of ranges is one string. 150,000 elements take 11 MB while they are read.
fn fence(text: &str) -> Result<(), Flaw> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(flaw(
            KEY,
            format!("has {} bytes, and at most {TEXT_BYTES_MAX} are plausible", text.len()),
        ));
    }
    let (mut elements, mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => {
                (elements, depth) = (elements + 1, depth + 1);
                deepest = depth.max(deepest);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => elements += 1,
            _ => {}
        }
    }
    if elements > ELEMENTS_MAX || deepest > DEPTH_MAX {
        return Err(flaw(
            KEY,
            format!("has {elements} elements, {deepest} deep; {ELEMENTS_MAX} and {DEPTH_MAX} are plausible"),
        ));
    }
    Ok(())
}

fn flaw(field: &'static str, what: String) -> Flaw {
    Flaw { field, what }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn take(&mut self, name: &'static str) -> Result<Value, Flaw> {
        self.0.remove(name).ok_or_else(|| flaw(name, "is missing".to_owned()))
    }

    fn number(&mut self, name: &'static str) -> Result<u64, Flaw> {
        self.take(name)?.as_u64().ok_or_else(|| flaw(name, "is no number from 0 to 2^64-1".to_owned()))
    }

    fn truth(&mut self, name: &'static str) -> Result<bool, Flaw> {
        self.take(name)?.as_bool().ok_or_else(|| flaw(name, "is neither true nor false".to_owned()))
    }

    fn set(&mut self, name: &'static str) -> Result<IdSet, Flaw> {
        let value = self.take(name)?;
        let Some(text) = value.as_str() else { return Err(flaw(name, "is no text".to_owned())) };
        let runs = text.matches(',').count() + 1;
        if runs > RUNS_MAX {
            return Err(flaw(name, format!("has {runs} runs, and at most {RUNS_MAX} are plausible")));
        }
        parse_runs(text).ok_or_else(|| flaw(name, "is no list of runs of ids like 1-7,9".to_owned()))
    }

    /// Records from before leaders signed them have no leader.
    fn leader(&mut self) -> Result<u64, Flaw> {
        let Some(leader) = self.0.remove("leader") else { return Ok(0) };
        let number = leader.as_str().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number.ok_or_else(|| flaw("leader", "is no hexadecimal number".to_owned()))
    }

    fn map<K: Ord, V>(
        &mut self,
        name: &'static str,
        one: impl Fn(&str, &Value) -> Option<(K, V)>,
    ) -> Result<BTreeMap<K, V>, Flaw> {
        let Value::Object(object) = self.take(name)? else {
            return Err(flaw(name, "is no object".to_owned()));
        };
        let entry = |(key, value): (&String, &Value)| {
            one(key, value).ok_or_else(|| flaw(name, "has an entry that is not known".to_owned()))
        };
        object.iter().map(entry).collect()
    }

    fn requested(&mut self) -> Result<Option<Requested>, Flaw> {
        let requested = self.take("requested")?;
        let part = |name: &str| requested[name].as_u64().and_then(|number| u32::try_from(number).ok());
        match part("total").zip(part("specTarget")) {
            _ if requested.is_null() => Ok(None),
            Some((total, spec_target)) => Ok(Some(Requested { total, spec_target })),
            None => Err(flaw("requested", "has no `total` and `specTarget`".to_owned())),
        }
    }
}

fn named(name: &str) -> Option<DeletionCause> {
    DeletionCause::ALL.into_iter().find(|cause| cause.name() == name)
}

fn runs(set: &IdSet) -> String {
    let run = |(first, last): (ExecutorId, ExecutorId)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    set.runs().map(run).collect::<Vec<_>>().join(",")
}

fn parse_runs(text: &str) -> Option<IdSet> {
    let run = |run: &str| {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        Some((ExecutorId(first.parse().ok()?), ExecutorId(last.parse().ok()?)))
    };
    let runs: Option<Vec<_>> = text.split(',').filter(|run| !run.is_empty()).map(run).collect();
    IdSet::from_runs(runs?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Ledger {
        Ledger {
            epoch: 3,
            leader: u64::MAX - 1,
            writes: 9,
            reserved: ExecutorId(40),
            revision: 77,
            created: 16,
            born: [1, 2, 3, 4, 5, 6, 8].into_iter().map(ExecutorId).collect(),
            settled: [9].into_iter().chain(11..19).map(ExecutorId).collect(),
            kept: [9].into_iter().map(ExecutorId).collect(),
            leaving: DeletionCause::ALL.iter().zip(1..).map(|(cause, id)| (ExecutorId(id), *cause)).collect(),
            lost: [(LossKind::Disk, 2), (LossKind::Other("my-kind".to_owned()), 1)].into(),
            removed: DeletionCause::ALL.iter().map(|cause| (*cause, 1)).collect(),
            failures: [(1_000, 2), (2_000, 1)].into(),
            failed: true,
            paused: true,
            suspect: true,
            requested: Some(Requested { total: 5, spec_target: 6 }),
            others: vec![("newer".into(), "{\"a\":[1]}".into())],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for ledger in [Ledger::default(), full()] {
            assert_eq!(decode(&encode(&ledger)).as_ref(), Ok(&ledger), "{}", encode(&ledger));
        }
        assert!(encode(&full()).contains("\"born\":\"1-6,8\""), "{}", encode(&full()));
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_empty() {
        let whole: Map<String, Value> = serde_json::from_str(&encode(&full())).unwrap();
        for name in whole.keys().filter(|name| *name != "newer") {
            let mut less = whole.clone();
            less.remove(name);
            match decode(&Value::Object(less.clone()).to_string()) {
                Ok(ledger) => assert_eq!((name.as_str(), ledger.leader), ("leader", 0)),
                Err(flaw) => assert_eq!(flaw.field, name.as_str(), "{flaw}"),
            }
            less.insert(name.clone(), json!([{"not": "this"}]));
            assert!(decode(&Value::Object(less).to_string()).is_err(), "{name}");
        }
        assert!(decode("").is_err());
        assert_eq!(parse_runs("7-3"), None);
        let map = ConfigMap::default();
        assert!(matches!(read(&map), Outcome::Invalid(_)));
    }

    /// A valid record with one field changed, and the resulting error.
    fn refused(name: &str, value: Value) -> String {
        let mut object: Map<String, Value> = serde_json::from_str(&encode(&full())).unwrap();
        object.insert(name.to_owned(), value);
        let text = Value::Object(object).to_string();
        let map: ConfigMap =
            serde_json::from_value(json!({"metadata": {"resourceVersion": "5"}, "data": {"ledger": text}}))
                .unwrap();
        let Outcome::Ok(Done::LedgerRefused { why, version, .. }) = read(&map) else {
            panic!("`{name}` is taken: {text:.300}");
        };
        assert_eq!(&*version.0, "5");
        assert!(why.len() < 200, "{why}");
        why
    }

    #[test]
    fn what_is_none_of_ours_is_refused_with_its_field() {
        let many = |count: usize, one: &dyn Fn(usize) -> String| {
            (0..count).map(|number| (one(number), json!(1))).collect::<Map<_, _>>().into()
        };
        for (name, value) in [
            ("born", json!("1-2147483647")),
            ("born", json!("1-3000000")),
            ("born", json!("1-6,8,9")),
            ("born", json!("1-6,9999999999")),
            ("settled", json!("8-16")),
            ("settled", json!("11-18446744073709551615")),
            ("kept", json!("10")),
            ("leaving", json!({"7": "roll"})),
            ("epoch", json!(u64::MAX)),
            ("writes", json!(u64::MAX)),
            ("reserved", json!(u64::MAX)),
            ("reserved", json!(i32::MAX)),
            ("revision", json!(u64::MAX)),
            ("created", json!(u64::MAX)),
            ("created", json!(17)),
            ("created", json!(-1)),
            ("failures", json!([[1, 4]])),
            ("failures", json!([[1, u32::MAX], [2, u32::MAX]])),
            ("failures", Value::Array((0..1_001).map(|at| json!([at, 0])).collect())),
            ("requested", json!({"total": 1_u64 << 32, "specTarget": 1})),
            ("leader", json!("10000000000000000")),
        ] {
            let why = refused(name, value);
            let field = why.split('`').nth(1).unwrap();
            assert!(field == name || ["born", "settled"].contains(&name), "{name}: {why}");
        }
        assert!(refused("settled", json!("9,11-19")).contains("`settled`"));
        assert!(refused("lost", json!({"disk": u64::MAX, "unknown": 1})).contains("settled"));
        assert!(refused("lost", many(1_000, &|number| format!("k{number}"))).contains("kinds"));
        assert!(refused("newer", json!("x".repeat(40_000))).contains("bytes"));
        assert!(refused("newer", json!("x".repeat(1 << 20))).contains("bytes"));
        assert!(refused("newer", json!(vec![0; 200_000])).contains("elements"));
        assert!(refused("born", json!("1,3,".repeat(50_000))).contains("runs"));
        let deep = (0..20).fold(json!(1), |inner, _| json!([inner]));
        assert!(refused("newer", deep).contains("deep"));
        let mut newer = encode(&full());
        for number in 0..70 {
            newer = newer.replacen('{', &format!("{{\"n{number}\":1,"), 1);
        }
        assert!(decode(&newer).unwrap_err().what.contains("at most 64"));
    }

    #[test]
    fn of_what_is_refused_only_the_plausible_is_kept() {
        let old = encode(&full()).replace("\"created\":16", "\"created\":17");
        assert_eq!(salvage(&old), Salvage { epoch: 3, reserved: ExecutorId(40) });
        let wild = old.replace("\"epoch\":3", "\"epoch\":18446744073709551615");
        assert_eq!(salvage(&wild), Salvage { epoch: 0, reserved: ExecutorId(40) });
        assert_eq!(salvage("{"), Salvage::default());
    }

    #[test]
    fn who_wrote_last_is_told() {
        let written = |manager: &str, field: &str| -> ConfigMap {
            serde_json::from_value(json!({
                "metadata": {"resourceVersion": "5", "managedFields": [
                    {"manager": manager, "operation": "Update", "fieldsV1": {"f:data": {field: {}}}},
                ]},
                "data": {"ledger": encode(&full())}
            }))
            .unwrap()
        };
        assert!(!edited(&written("rollcall", "f:ledger")));
        assert!(edited(&written("kubectl", "f:ledger")));
        assert!(edited(&written("rollcall", "f:other")));
        let mut silent = written("rollcall", "f:ledger");
        silent.metadata.managed_fields = None;
        assert!(!edited(&silent));
    }
}
