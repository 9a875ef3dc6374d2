//! A driver's settings: Spark's properties, read with Spark's own rules.
//!
//! The answer of `/environment` has the properties that are set; Spark's defaults are not among them, so each reader
//! names its default. It also has the metrics properties of the driver, which come from the same settings and from the
//! driver's metrics.properties.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// An error is a sentence that says why it is not known.
pub type Known<T> = Result<T, String>;

/// What Spark shows in place of a value that matches `spark.redaction.regex`.
const REDACTED: &str = "*********(redacted)";
const METRICS: &str = "spark.metrics.conf.";
const GRAPHITE: &str = "org.apache.spark.metrics.sink.GraphiteSink";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    values: BTreeMap<String, String>,
    /// All metrics properties of the driver. `None`: only those among `values` are known.
    metrics: Option<BTreeMap<String, String>>,
    /// Spark's version, as far as it decides about defaults.
    pub version: Option<(u32, u32)>,
    /// They are those of the submission. The application's code may have set others.
    pub submitted: bool,
}

/// Spark's `ApplicationEnvironmentInfo`, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Environment {
    spark_properties: Vec<(String, String)>,
    metrics_properties: Option<Vec<(String, String)>>,
    #[serde(default)]
    classpath_entries: Vec<(String, String)>,
}

/// A GraphiteSink of executors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sink {
    /// The part of its keys before its properties: `executor.sink.graphite`.
    pub head: String,
    /// It stands in a file of the driver's; executors read their own.
    pub from_file: bool,
    properties: BTreeMap<String, String>,
}

impl Settings {
    /// Parses an answer of `/api/v1/applications/<id>/environment`.
    pub fn from_environment(answer: Value) -> Known<Settings> {
        let read: Environment = serde_json::from_value(answer)
            .map_err(|error| format!("this is not what Spark's /environment answers: {error}"))?;
        let version = read.classpath_entries.iter().find_map(|(path, _)| {
            let file = path.rsplit('/').next()?.strip_prefix("spark-core_")?;
            version(file.split_once('-')?.1)
        });
        Ok(Settings {
            values: read.spark_properties.into_iter().collect(),
            metrics: read.metrics_properties.map(|properties| properties.into_iter().collect()),
            version,
            submitted: false,
        })
    }

    /// The settings with which an application was submitted.
    pub fn submitted(values: BTreeMap<String, String>) -> Settings {
        Settings { values, submitted: true, ..Settings::default() }
    }

    /// With this version, if none is known.
    pub fn or_version(mut self, version: Option<(u32, u32)>) -> Settings {
        self.version = self.version.or(version);
        self
    }

    /// The value, if the property is set. An error: it is set, but hidden.
    pub fn text(&self, key: &str) -> Known<Option<&str>> {
        match self.values.get(key).map(|value| value.trim()) {
            Some(REDACTED) => Err(format!("Spark does not show {key}: it matches spark.redaction.regex")),
            value => Ok(value.filter(|value| !value.is_empty())),
        }
    }

    pub fn flag(&self, key: &str, default: bool) -> Known<bool> {
        match self.text(key)?.map(str::to_lowercase).as_deref() {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(unreadable(key, "a boolean")),
        }
    }

    pub fn number(&self, key: &str) -> Known<Option<u64>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| unreadable(key, "a number"))
    }

    /// In milliseconds. `bare_ms`: the unit of a number that has none.
    pub fn duration_ms(&self, key: &str, bare_ms: u64) -> Known<Option<u64>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        duration_ms(text, bare_ms).map(Some).ok_or_else(|| unreadable(key, "a duration"))
    }

    /// Class names and the like, separated by commas.
    pub fn list(&self, key: &str) -> Known<Vec<&str>> {
        let text = self.text(key)?.unwrap_or_default();
        Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect())
    }

    /// The value with Spark's variables substituted: `${spark.app.name}`.
    pub fn substituted(&self, key: &str) -> Known<Option<String>> {
        let Some(mut rest) = self.text(key)? else { return Ok(None) };
        let mut out = String::new();
        while let Some((before, variable)) = rest.split_once("${") {
            let (name, after) = variable.split_once('}').ok_or_else(|| unreadable(key, "complete"))?;
            let value = self.text(name)?;
            let value =
                value.ok_or_else(|| format!("{key} has the variable {name}, which only Spark knows"))?;
            out += before;
            out += value;
            rest = after;
        }
        Ok(Some(out + rest))
    }

    /// Executors' sinks of this kind, as `MetricsConfig` and `MetricsSystem` find them: properties of `*` are those of
    /// executors too, unless `executor` has its own.
    pub fn graphite_sinks(&self) -> Vec<Sink> {
        let settings =
            self.values.iter().filter_map(|(key, value)| Some((key.strip_prefix(METRICS)?, value)));
        let set: BTreeMap<&str, &String> = settings.collect();
        let all = match &self.metrics {
            Some(metrics) => metrics.iter().map(|(key, value)| (key.as_str(), value)).collect(),
            None => set.clone(),
        };
        let mut sinks: BTreeMap<&str, Sink> = BTreeMap::new();
        // Those of `executor` come later, and replace those of `*`.
        for instance in ["*.sink.", "executor.sink."] {
            for (key, value) in &all {
                let Some((name, property)) = key.strip_prefix(instance).and_then(|key| key.rsplit_once('.'))
                else {
                    continue;
                };
                let sink = sinks.entry(name).or_default();
                sink.head = format!("{instance}{name}");
                sink.from_file |= !set.contains_key(key);
                sink.properties.insert(property.to_owned(), value.trim().to_owned());
            }
        }
        sinks
            .into_values()
            .filter(|sink| sink.properties.get("class").is_some_and(|class| class == GRAPHITE))
            .collect()
    }
}

impl Sink {
    pub fn get(&self, property: &str) -> Option<&str> {
        self.properties.get(property).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `None`: Spark cannot read it either.
    pub fn port(&self) -> Option<u16> {
        self.get("port")?.parse().ok()
    }

    /// Spark's default is 10 seconds. `None`: Spark cannot read it either.
    pub fn period_ms(&self) -> Option<u64> {
        let period: u64 = self.get("period").unwrap_or("10").parse().ok()?;
        let unit = self.get("unit").unwrap_or("seconds").to_lowercase();
        let unit_ms = match &*unit {
            "milliseconds" => 1,
            "seconds" => 1_000,
            "minutes" => 60_000,
            "hours" => 3_600_000,
            "days" => 86_400_000,
            _ => return None,
        };
        period.checked_mul(unit_ms)
    }

    /// The line that sets this property.
    pub fn line(&self, property: &str, value: &str) -> String {
        format!("{METRICS}{}.{property}={value}", self.head)
    }
}

/// The lines of a GraphiteSink that sends to Rollcall, under a name that is not taken.
pub fn sink_lines(taken: &[Sink], host: &str, port: u16, period_s: u64) -> Vec<String> {
    let name = if taken.is_empty() { "graphite" } else { "rollcall" };
    let sink = Sink { head: format!("executor.sink.{name}"), ..Sink::default() };
    let properties = [
        ("class", GRAPHITE),
        ("host", host),
        ("port", &port.to_string()),
        ("period", &period_s.to_string()),
        ("unit", "seconds"),
    ];
    properties.into_iter().map(|(property, value)| sink.line(property, value)).collect()
}

fn unreadable(key: &str, what: &str) -> String {
    format!("the value of {key} is not {what}")
}

/// `JavaUtils.timeStringAs`: `10s`, `1min`, `500`. A number without a unit has the setting's own.
fn duration_ms(text: &str, bare_ms: u64) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().ok()?;
    let unit_ms = match unit {
        "" => bare_ms,
        "us" => return Some(number / 1_000),
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit_ms)
}

/// `4.3.0`, `3.5.1-amzn-0`.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_end_matches(".jar").split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Java's properties, as `Properties.store` writes them into the driver's ConfigMap: `key=value`, with special
/// characters escaped.
pub fn properties(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut parts = [String::new(), String::new()];
        let (mut part, mut letters) = (0, line.chars());
        while let Some(letter) = letters.next() {
            match letter {
                '\\' => match letters.next() {
                    Some('n') => parts[part].push('\n'),
                    Some('t') => parts[part].push('\t'),
                    Some('r') => parts[part].push('\r'),
                    Some(other) => parts[part].push(other),
                    None => {}
                },
                '=' if part == 0 => part = 1,
                other => parts[part].push(other),
            }
        }
        let [key, value] = parts;
        if !key.is_empty() {
            found.insert(key, value);
        }
    }
    found
}

/// The settings among the words of a command: `--conf key=value`, `-c key=value`, `--conf=key=value`.
pub fn command_settings<'a>(words: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = match word {
            "--conf" | "-c" => words.next(),
            _ => word.strip_prefix("--conf="),
        };
        if let Some((key, value)) = setting.and_then(|setting| setting.split_once('=')) {
            found.insert(key.trim().to_owned(), value.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::submitted(pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
    }

    #[test]
    fn durations_have_sparks_units_or_the_settings_own() {
        for (text, ms) in [
            ("10s", Some(10_000)),
            (" 10S ", Some(10_000)),
            ("1min", Some(60_000)),
            ("1m", Some(60_000)),
            ("500", Some(500_000)),
            ("10000ms", Some(10_000)),
            ("2500us", Some(2)),
            ("2h", Some(7_200_000)),
            ("30d", Some(2_592_000_000)),
            ("7.5s", None),
            ("-1s", None),
            ("1 min", None),
            ("ten", None),
            ("", None),
        ] {
            assert_eq!(duration_ms(text, 1_000), ms, "{text}");
        }
        assert_eq!(duration_ms("500", 1), Some(500), "a number without a unit has the setting's own");
    }

    #[test]
    fn values_are_read_as_spark_reads_them() {
        let read = settings(&[
            ("on", " True "),
            ("odd", "yes"),
            ("empty", ""),
            ("hidden", REDACTED),
            ("list", " a.B , , c.D,"),
            ("name", "${spark.app.name}-x"),
            ("spark.app.name", "etl"),
            ("environment", "${env:HOME}"),
            ("number", "7"),
        ]);
        assert_eq!((read.flag("on", false), read.flag("absent", true)), (Ok(true), Ok(true)));
        assert_eq!((read.flag("empty", true), read.text("empty")), (Ok(true), Ok(None)));
        assert_eq!(read.flag("odd", false).unwrap_err(), "the value of odd is not a boolean");
        assert!(read.flag("hidden", false).unwrap_err().contains("spark.redaction.regex"));
        assert_eq!(read.list("list").unwrap(), ["a.B", "c.D"]);
        assert_eq!(read.list("absent").unwrap(), Vec::<&str>::new());
        assert_eq!(read.substituted("name"), Ok(Some("etl-x".to_owned())));
        assert!(read.substituted("environment").unwrap_err().contains("env:HOME"));
        assert_eq!((read.number("number"), read.number("absent")), (Ok(Some(7)), Ok(None)));
        assert!(read.number("on").is_err());
    }

    #[test]
    fn a_sink_of_executors_stands_among_the_settings_or_in_a_file() {
        let environment = |spark: Value, metrics: Value| {
            let answer = json!({"sparkProperties": spark, "metricsProperties": metrics});
            Settings::from_environment(answer).unwrap().graphite_sinks()
        };
        let class = json!(["spark.metrics.conf.*.sink.a.b.class", GRAPHITE]);
        let loaded = json!([
            ["*.sink.a.b.class", GRAPHITE],
            ["executor.sink.a.b.host", "h"],
            ["*.sink.a.b.host", "x"],
            ["*.sink.servlet.class", "org.apache.spark.metrics.sink.MetricsServlet"]
        ]);
        let [sink] = &environment(json!([class]), loaded)[..] else { panic!("one sink") };
        assert_eq!((sink.get("host"), sink.from_file, sink.port()), (Some("h"), true, None));
        assert_eq!(sink.period_ms(), Some(10_000), "Spark's default");
        assert_eq!(sink.line("port", "2003"), "spark.metrics.conf.executor.sink.a.b.port=2003");
        // Before Spark 3.4 the answer has no metrics properties.
        let [sink] = &environment(json!([class]), Value::Null)[..] else { panic!("one sink") };
        assert!(!sink.from_file);
        let driver = json!([["driver.sink.graphite.class", GRAPHITE]]);
        assert_eq!(environment(json!([]), driver), []);
        let mut sink = Sink::default();
        for (period, unit, ms) in
            [("5", "MINUTES", Some(300_000)), ("500", "milliseconds", Some(500)), ("5", "weeks", None)]
        {
            sink.properties =
                [("period", period), ("unit", unit)].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
            assert_eq!(sink.period_ms(), ms, "{period} {unit}");
        }
    }

    #[test]
    fn versions_are_those_of_vendors_too() {
        for (text, expected) in
            [("4.3.0.jar", Some((4, 3))), ("3.5.1-amzn-0", Some((3, 5))), ("4.3", Some((4, 3))), ("x", None)]
        {
            assert_eq!(version(text), expected, "{text}");
        }
    }

    #[test]
    fn what_was_submitted_is_read_from_properties_and_commands() {
        let text =
            "#Java properties built from Kubernetes config map\n#Sun Nov 29\nspark.a=x\\=y\\:z\nspark.b=\n\n";
        let found = properties(text);
        assert_eq!((found.len(), &*found["spark.a"], &*found["spark.b"]), (2, "x=y:z", ""));
        let words = [
            "spark-submit",
            "--conf",
            "spark.a=1=2",
            "-c",
            "spark.b= x",
            "--conf=spark.c=3",
            "--conf",
            "app.py",
        ];
        let found = command_settings(words);
        let found: Vec<(&str, &str)> = found.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(found, [("spark.a", "1=2"), ("spark.b", " x"), ("spark.c", "3")]);
    }
}
