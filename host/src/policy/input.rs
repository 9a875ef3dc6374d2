//! Fleets as JSON: in Spark's format, or in Rollcall's.
//!
//! Spark's format is the answer of `/api/v1/applications/<id>/executors` or `/allexecutors`, an array that
//! [`spark`](crate::spark) reads. Rollcall's is an object with the fields of the contract's `fleet` record in
//! camelCase. Several documents may follow one another, as in JSON Lines.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read};

use anyhow::{Result, anyhow};
use fleet::event::Counters;
use fleet::question::{Candidate, Metric, Node, RollQuestion};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::spark::{BYTE_ORDER_MARK, Notes, Summaries, Summary, in_sparks_order, refusal};

/// Reads documents one after another. Each error names the document's position in the input.
pub fn documents<T: DeserializeOwned>(input: impl Read) -> impl Iterator<Item = Result<T>> {
    let mut input = BufReader::new(input);
    // A read error is reported below.
    if input.fill_buf().is_ok_and(|start| start.starts_with(BYTE_ORDER_MARK)) {
        input.consume(BYTE_ORDER_MARK.len());
    }
    let documents = serde_json::Deserializer::from_reader(input).into_iter::<T>();
    documents.map(|document| {
        document.map_err(|error| {
            if error.is_eof() {
                anyhow!("the JSON ends too early, at line {} column {}", error.line(), error.column())
            } else if error.is_data() {
                anyhow!(refusal(&error))
            } else {
                anyhow!(error).context("the input is not JSON")
            }
        })
    })
}

/// A question, and the parts of the document that are not in it.
pub struct Asked {
    pub question: RollQuestion,
    pub warning: Option<String>,
}

/// A question about this fleet. Candidates are the active executors with counters and enough tasks, in the order in
/// which Spark's own plugin sees them, not in the document's order.
pub fn roll_question(document: &Document, min_tasks: i32, now_ms: i64) -> Result<Asked> {
    let document = match document {
        Document::Spark(executors) => return Ok(from_spark(executors, min_tasks, now_ms)),
        Document::Other(document) => document,
    };
    let kind = match document {
        Value::Object(_) => {
            let question = from_fleet(document, min_tasks, now_ms)?;
            return Ok(Asked { question, warning: None });
        }
        Value::Array(_) => "an array",
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
    };
    Err(anyhow!("the input is {kind}; expected the array that Spark's /executors answers, or a fleet object"))
}

/// Deserializes; an error has the path of the invalid value, below `place`.
pub fn at<'de, T: Deserialize<'de>>(document: &'de Value, place: &str) -> Result<T> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        let path = match (place, path.as_str()) {
            ("", ".") => "the document".into(),
            ("", path) => path.into(),
            (place, ".") => place.into(),
            (place, path) => format!("{place}.{path}"),
        };
        anyhow!("{path}: {}", error.into_inner())
    })
}

/// A default for serde.
pub fn yes() -> bool {
    true
}

/// The input that a policy can be asked about.
pub enum Document {
    /// Spark's `/executors` or `/allexecutors`.
    Spark(Executors),
    /// Possibly a fleet object.
    Other(Value),
}

/// The active executors that Spark lists.
pub struct Executors {
    rows: Vec<SparkExecutor>,
    notes: Notes,
}

struct SparkExecutor {
    id: u64,
    counters: Option<Counters>,
    host: Option<String>,
    metrics: Vec<(String, f64)>,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Document, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<Document, A::Error> {
        let mut rows = Vec::new();
        let active = |summary: Summary<'de>| rows.extend(summary.active.then(|| row(summary)));
        let notes = Summaries(active).visit_seq(values)?;
        Ok(Document::Spark(Executors { rows, notes }))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Document, A::Error> {
        Value::deserialize(MapAccessDeserializer::new(map)).map(Document::Other)
    }

    fn visit_unit<E>(self) -> Result<Document, E> {
        Ok(Document::Other(Value::Null))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Document, E> {
        Ok(Document::Other(flag.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Document, E> {
        Ok(Document::Other(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Document, E> {
        Ok(Document::Other(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Document, E> {
        Ok(Document::Other(number.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Document, E> {
        Ok(Document::Other(text.into()))
    }
}

fn row(summary: Summary<'_>) -> SparkExecutor {
    let Summary { id, active: _, remove_reason: _, host_port, counters, others, peaks } = summary;
    let host = |host_port: &str| host_port.rsplit_once(':').map_or(host_port, |(host, _)| host).to_owned();
    let others = others.into_iter().map(|(name, value)| (name.to_owned(), value as f64));
    let peaks = peaks.into_iter().map(|(name, value)| (name.into_owned(), value as f64));
    SparkExecutor {
        id: id.0,
        counters,
        host: host_port.as_deref().map(host),
        metrics: others.chain(peaks).collect(),
    }
}

fn from_spark(executors: &Executors, min_tasks: i32, now_ms: i64) -> Asked {
    let Executors { rows, notes } = executors;
    let available = rows.len() as u32;
    let mut candidates: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row, row.counters.as_ref()?)))
        .filter(|(_, counters)| counters.total_tasks >= min_tasks)
        .collect();
    in_sparks_order(&mut candidates, |(row, _)| row.id);
    let mut question =
        RollQuestion { target: available, available, now_ms, picks_max: 1, ..RollQuestion::default() };
    let mut hosts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut metrics = Columns::default();
    for (index, (row, counters)) in candidates.into_iter().enumerate() {
        let node = row.host.as_deref().map(|host| {
            let next = hosts.len() as u32;
            *hosts.entry(host).or_insert(next)
        });
        for (name, value) in &row.metrics {
            metrics.set(name, index, *value);
        }
        question.candidates.push(Candidate {
            id: row.id,
            age_ms: u64::try_from(now_ms.saturating_sub(counters.add_time_ms)).unwrap_or(0),
            node,
            ..Candidate::from(counters)
        });
    }
    question.metrics = metrics.finish(question.candidates.len());
    question.nodes =
        vec![Node { zone: None, spot: false, ready: true, cordoned: false, departing: false }; hosts.len()];
    Asked { question, warning: (!notes.is_empty()).then(|| notes.to_string()) }
}

/// Metric columns that are filled row by row.
#[derive(Default)]
struct Columns(BTreeMap<String, Vec<f64>>);

impl Columns {
    fn set(&mut self, name: &str, row: usize, value: f64) {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_string(), Vec::new());
        }
        if let Some(column) = self.0.get_mut(name) {
            column.resize(row, f64::NAN);
            column.push(value);
        }
    }

    fn finish(self, rows: usize) -> Vec<Metric> {
        let full = |(name, mut values): (String, Vec<f64>)| {
            values.resize(rows, f64::NAN);
            Metric { name, values }
        };
        self.0.into_iter().map(full).collect()
    }
}

/// The contract's `fleet` record.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fleet {
    #[serde(default)]
    name: String,
    #[serde(default)]
    application_id: String,
    target: Option<u32>,
    available: Option<u32>,
    now_ms: Option<i64>,
    #[serde(default)]
    seed: u64,
    picks_max: Option<u32>,
    executors: Vec<Executor>,
    #[serde(default)]
    nodes: Vec<FleetNode>,
}

macro_rules! executor {
    ($($counter:ident: $type:ident = $how:ident($name:literal),)*) => {
        /// A row of the contract's `executors` record.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Executor {
            id: u64,
            $(#[serde(default)] $counter: $type,)*
            #[serde(default)]
            age_ms: u64,
            since_heartbeat_ms: Option<u64>,
            node: Option<u32>,
            #[serde(default)]
            metrics: BTreeMap<String, f64>,
        }

        impl From<Executor> for Candidate {
            fn from(row: Executor) -> Candidate {
                let Executor { id, age_ms, since_heartbeat_ms, node, .. } = row;
                Candidate { id, $($counter: row.$counter,)* age_ms, since_heartbeat_ms, node }
            }
        }
    };
}

fleet::with_counters!(executor);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FleetNode {
    zone: Option<u32>,
    #[serde(default)]
    spot: bool,
    #[serde(default = "yes")]
    ready: bool,
    #[serde(default)]
    cordoned: bool,
    #[serde(default)]
    departing: bool,
}

fn from_fleet(document: &Value, min_tasks: i32, now_ms: i64) -> Result<RollQuestion> {
    let Fleet {
        name,
        application_id,
        target,
        available,
        now_ms: asked_ms,
        seed,
        picks_max,
        executors,
        nodes,
    } = at(document, "")?;
    if picks_max == Some(0) {
        return Err(anyhow!("picksMax: 0 allows no pick; it must be at least 1"));
    }
    let available = available.unwrap_or(executors.len() as u32);
    let mut question = RollQuestion {
        fleet: name,
        application_id,
        target: target.unwrap_or(available),
        available,
        now_ms: asked_ms.unwrap_or(now_ms),
        seed,
        picks_max: picks_max.unwrap_or(1),
        ..RollQuestion::default()
    };
    for (index, executor) in executors.iter().enumerate() {
        if let Some(node) = executor.node.filter(|&node| node as usize >= nodes.len()) {
            return Err(anyhow!("executors[{index}].node: {node}, but there are {} nodes", nodes.len()));
        }
    }
    let mut executors = executors;
    executors.retain(|executor| executor.total_tasks >= min_tasks);
    in_sparks_order(&mut executors, |executor| executor.id);
    let mut metrics = Columns::default();
    for executor in executors {
        for (name, value) in &executor.metrics {
            metrics.set(name, question.candidates.len(), *value);
        }
        question.candidates.push(executor.into());
    }
    question.metrics = metrics.finish(question.candidates.len());
    question.nodes = nodes
        .into_iter()
        .map(|FleetNode { zone, spot, ready, cordoned, departing }| Node {
            zone,
            spot,
            ready,
            cordoned,
            departing,
        })
        .collect();
    Ok(question)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spark::counter_fields;
    use serde_json::json;

    fn document(document: Value) -> Result<Document> {
        let text = document.to_string();
        documents(text.as_bytes()).next().expect("a document")
    }

    fn question(value: Value, min_tasks: i32, now_ms: i64) -> Result<Asked> {
        roll_question(&document(value)?, min_tasks, now_ms)
    }

    #[track_caller]
    fn error(document: Value) -> String {
        match question(document, 0, 0) {
            Ok(_) => panic!("should be refused"),
            Err(error) => format!("{error:#}"),
        }
    }

    /// An executor as Spark writes it, with some fields replaced; `null` removes one.
    fn executor(id: &str, fields: Value) -> Value {
        let mut executor = json!({"id": id, "isActive": true, "hostPort": "a:7080"});
        counter_fields().for_each(|counter| executor[counter] = 0.into());
        executor["addTime"] = "1970-01-01T00:00:00.000GMT".into();
        let fields = fields.as_object().expect("fields").clone();
        executor.as_object_mut().expect("fields").extend(fields);
        executor
    }

    #[test]
    fn spark_executors_become_candidates_in_the_order_of_sparks_plugin() {
        let executors = json!([
            {"id": "driver", "isActive": true, "hostPort": "d:1"},
            executor("2", json!({"hostPort": "b:7080", "totalTasks": 5, "addTime": "1970-01-01T00:00:01.500GMT",
                "peakMemoryMetrics": {"JVMHeapMemory": 7, "MinorGCCount": 3}})),
            executor("1", json!({"isActive": false, "totalTasks": 9})),
            executor("4", json!({"totalTasks": 1})),
            executor("10", json!({"totalTasks": 9, "peakMemoryMetrics": {}})),
            executor("3", json!({"hostPort": "b:7081", "totalTasks": 9})),
        ]);
        let Asked { question, warning } = question(executors, 2, 2_000).expect("a question");
        let columns = question.candidates.columns();
        assert_eq!(columns.id, [3, 2, 10]);
        assert_eq!(columns.node, [0, 0, 1]);
        assert_eq!(columns.add_time_ms, [0, 1_500, 0]);
        assert_eq!(columns.age_ms, [2_000, 500, 2_000]);
        assert_eq!(columns.peak_jvm_onheap_bytes, [-1, 7, 0]);
        assert_eq!((question.available, question.nodes.len(), warning), (4, 2, None));
        let gc = question.metrics.iter().find(|metric| metric.name == "MinorGCCount").expect("a column");
        assert!(gc.values[0].is_nan() && gc.values[2].is_nan());
        assert_eq!(gc.values[1], 3.0);
    }

    /// An executor's nodes and metrics move with it.
    #[test]
    fn a_fleet_objects_executors_stand_in_that_order_too() {
        let fleet = json!({"nodes": [{"spot": true}, {}], "executors": [
            {"id": 10, "node": 1, "metrics": {"a": 1.0}}, {"id": 9, "totalTasks": -1},
            {"id": 2, "node": 0, "metrics": {"a": 2.0}}, {"id": 1}, {"id": 100},
        ]});
        let question = question(fleet, 0, 0).expect("a question").question;
        let columns = question.candidates.columns();
        assert_eq!(columns.id, [2, 100, 10, 1]);
        assert_eq!((columns.node[0], columns.node[2]), (0, 1));
        let values = &question.metrics[0].values;
        assert_eq!((values[0], values[2]), (2.0, 1.0));
        assert!(values[1].is_nan() && values[3].is_nan());
    }

    #[test]
    fn an_executor_without_counters_is_available_and_no_candidate() {
        let executors = json!([
            executor("1", json!({"addTime": null})),
            executor("2", json!({})),
            executor("3", json!({"isActive": false, "totalTasks": null})),
            {"id": "4"},
        ]);
        let Asked { question, warning } = question(executors, 0, 0).expect("a question");
        assert_eq!(question.candidates.columns().id, [2]);
        assert_eq!(question.available, 3);
        let warning = warning.expect("a warning");
        assert!(
            warning.contains("executor 1 has no addTime; executor 4 has no addTime, activeTasks,"),
            "{warning}"
        );
        assert!(!warning.contains("executor 3"), "{warning}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        assert_eq!(
            error(json!([executor("1", json!({})), {"id": "2", "totalTasks": "7"}])),
            "[1].totalTasks: invalid type: string \"7\", expected i32"
        );
        assert_eq!(
            error(json!([{"id": "1", "addTime": "yesterday"}])).split(':').next(),
            Some("[0].addTime")
        );
        assert_eq!(error(json!([7])), "[0]: invalid type: integer `7`, expected an executor object");
        assert!(error(json!({"executors": [{"id": 1, "totalTask": 3}]})).starts_with("executors[0]"));
        assert!(error(json!({"executors": [{"id": 1, "node": 0}]})).starts_with("executors[0].node: 0"));
        for (document, kind) in [(json!(3), "a number"), (json!(null), "null"), (json!("a"), "a string")] {
            assert!(error(document).starts_with(&format!("the input is {kind}; expected the array")));
        }
        let cut: Vec<Result<Document>> = documents(&b"[{\"id\": \"1\""[..]).collect();
        let cut = cut[0].as_ref().err().expect("cut");
        assert_eq!(cut.to_string(), "the JSON ends too early, at line 1 column 11");
    }
}
