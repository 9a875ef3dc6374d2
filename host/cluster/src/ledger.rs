//! The ledger as a ConfigMap, owned by the driver's pod so that it ends with the application.
//!
//! One key, one JSON document that a person can read. Sets of ids are runs, `1-7,9`. What a newer version
//! wrote beside what we know is kept and handed on. Compare-and-swap is the API server's: a PUT with the
//! `resourceVersion` that was read, or a POST.

use std::collections::BTreeMap;

use fleet::event::{Done, Outcome};
use fleet::id::{ExecutorId, IdSet, Version};
use fleet::ledger::{Ledger, Requested};
use fleet::question::{DeletionCause, LossKind};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Map, Value, json};

use crate::FIELD_MANAGER;

pub const KEY: &str = "ledger";

/// The object's data.
pub fn data(ledger: &Ledger) -> BTreeMap<String, String> {
    BTreeMap::from([(KEY.to_owned(), encode(ledger))])
}

/// What was read, as the core wants to know it. A record that cannot be read is an error that must not be
/// taken for an empty one: ids would be used twice.
pub fn read(map: &ConfigMap) -> Outcome {
    let text = map.data.as_ref().and_then(|data| data.get(KEY));
    let Some(version) = &map.metadata.resource_version else {
        return Outcome::Invalid("the ledger's ConfigMap has no resourceVersion".to_owned());
    };
    let ledger = match text.map(|text| decode(text)) {
        Some(Ok(ledger)) => ledger,
        Some(Err(why)) => return Outcome::Invalid(format!("the ledger cannot be read: {why}")),
        None => return Outcome::Invalid(format!("the ledger's ConfigMap has no key `{KEY}`")),
    };
    Outcome::Ok(Done::Ledger {
        ledger: Box::new(ledger),
        version: Version(version.as_str().into()),
        edited: edited(map),
    })
}

/// Whoever wrote a field last owns it. An API server that keeps no such record says nothing.
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
    // First, so that what we know wins over what a newer version may call the same.
    for (name, value) in &ledger.others {
        object.insert(name.to_string(), serde_json::from_str(value).unwrap_or(Value::Null));
    }
    let leaving = ledger.leaving.iter().map(|(id, cause)| (id.to_string(), json!(cause.name())));
    let lost = ledger.lost.iter().map(|(kind, count)| (kind.name().to_owned(), json!(count)));
    let removed = ledger.removed.iter().map(|(cause, count)| (cause.name().to_owned(), json!(count)));
    let fields = [
        ("epoch", json!(ledger.epoch)),
        // In words: not everybody's JSON has numbers of 64 bits.
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

pub fn decode(text: &str) -> Result<Ledger, String> {
    let mut object: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut take = |name: &str| object.remove(name).ok_or_else(|| format!("`{name}` is missing"));
    let number = |name: &str, value: Value| value.as_u64().ok_or_else(|| format!("`{name}` is no number"));
    let truth = |name: &str, value: Value| {
        value.as_bool().ok_or_else(|| format!("`{name}` is neither true nor false"))
    };
    let mut get = |name: &str| number(name, take(name)?);
    let (epoch, writes, reserved, revision, created) =
        (get("epoch")?, get("writes")?, get("reserved")?, get("revision")?, get("created")?);
    // Records of before leaders signed them are nobody's.
    let leader = take("leader").unwrap_or_else(|_| json!("0"));
    let leader = leader.as_str().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let leader = leader.ok_or("`leader` is no hexadecimal number")?;
    let set = |name: &str, value: Value| {
        value.as_str().and_then(parse_runs).ok_or_else(|| format!("`{name}` is no list of runs like 1-7,9"))
    };
    let (born, settled, kept) =
        (set("born", take("born")?)?, set("settled", take("settled")?)?, set("kept", take("kept")?)?);
    let leaving = map_of("leaving", take("leaving")?, |id, cause| {
        Some((ExecutorId(id.parse().ok()?), named(cause.as_str()?)?))
    })?;
    let lost = map_of("lost", take("lost")?, |name, count| Some((LossKind::named(name), count.as_u64()?)))?;
    let removed = map_of("removed", take("removed")?, |name, count| Some((named(name)?, count.as_u64()?)))?;
    let failures =
        serde_json::from_value(take("failures")?).map_err(|error| format!("`failures`: {error}"))?;
    let (failed, paused, suspect) = (
        truth("failed", take("failed")?)?,
        truth("paused", take("paused")?)?,
        truth("suspect", take("suspect")?)?,
    );
    let requested = take("requested")?;
    let part = |name: &str| requested[name].as_u64().and_then(|number| u32::try_from(number).ok());
    let requested = if requested.is_null() {
        None
    } else {
        let both = part("total").zip(part("specTarget"));
        let (total, spec_target) = both.ok_or("`requested` has no `total` and `specTarget`")?;
        Some(Requested { total, spec_target })
    };
    let others = object.into_iter().map(|(name, value)| (name.into(), value.to_string().into())).collect();
    Ok(Ledger {
        epoch,
        leader,
        writes,
        reserved: ExecutorId(reserved),
        revision,
        created,
        born,
        settled,
        kept,
        leaving,
        lost,
        removed,
        failures,
        failed,
        paused,
        suspect,
        requested,
        others,
    })
}

fn map_of<K: Ord, V>(
    name: &str,
    value: Value,
    one: impl Fn(&str, &Value) -> Option<(K, V)>,
) -> Result<BTreeMap<K, V>, String> {
    let Value::Object(object) = value else { return Err(format!("`{name}` is no object")) };
    let each =
        object.iter().map(|(key, value)| one(key, value).ok_or_else(|| format!("`{name}.{key}` is unknown")));
    each.collect()
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
    IdSet::from_runs(runs?).filter(|set| set.runs().all(|(_, last)| last <= ExecutorId::MAX))
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
            created: 12,
            born: [1, 2, 3, 7].into_iter().map(ExecutorId).collect(),
            settled: [4, 5, 9].into_iter().map(ExecutorId).collect(),
            kept: [9].into_iter().map(ExecutorId).collect(),
            leaving: DeletionCause::ALL.iter().zip(1..).map(|(cause, id)| (ExecutorId(id), *cause)).collect(),
            lost: [(LossKind::Disk, 2), (LossKind::Other("my-kind".to_owned()), 1)].into(),
            removed: DeletionCause::ALL.iter().map(|cause| (*cause, 5)).collect(),
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
        assert!(encode(&full()).contains("\"born\":\"1-3,7\""), "{}", encode(&full()));
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_empty() {
        let whole: Map<String, Value> = serde_json::from_str(&encode(&full())).unwrap();
        for name in whole.keys().filter(|name| *name != "newer") {
            let mut less = whole.clone();
            less.remove(name);
            match decode(&Value::Object(less.clone()).to_string()) {
                Ok(ledger) => assert_eq!((name.as_str(), ledger.leader), ("leader", 0)),
                Err(error) => assert!(error.contains(name.as_str()), "{name}: {error}"),
            }
            less.insert(name.clone(), json!([{"not": "this"}]));
            assert!(decode(&Value::Object(less).to_string()).is_err(), "{name}");
        }
        assert!(decode("").is_err());
        assert_eq!(parse_runs("1-99999999999"), None);
        assert_eq!(parse_runs("7-3"), None);
        let map = ConfigMap::default();
        assert!(matches!(read(&map), Outcome::Invalid(_)));
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
