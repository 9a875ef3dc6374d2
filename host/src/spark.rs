//! The parser for the executors in Spark's REST API, `/executors` or `/allexecutors`.
//!
//! The daemon gets this document from a driver, `rollcall policy run` reads it from a file. Both use this parser, so
//! the same document has the same meaning for both, or is refused by both. The rules:
//!
//! - A row is an executor if its id is a number, because Spark on Kubernetes numbers its executors. The driver and the
//!   block manager of Spark's fallback storage also have rows, with words as ids; those rows are skipped.
//! - A number is an integer of the width that Spark uses. `0.0` and `1e3` are integers that passed through a tool which
//!   supports only floats; `1.5` and numbers out of range are refused, with their position.
//! - `null` and a missing field are equivalent.
//! - A row that lacks one of its counters has no counters. A missing value counts as 0 only where Spark does the same.
//!
//! Rows are passed to the caller one by one, and the caller keeps only what it needs: a driver runs user code, so its
//! answer must not use more memory than necessary.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Display, Write};

use fleet::event::Counters;
use fleet::id::ExecutorId;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor,
};

use crate::heartbeat::graphite::executor_id;

/// Windows tools write it at the beginning of a file.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Maximum number of rows of a document: ten times the largest application, for dead executors.
pub const ROWS_MAX: usize = 100_000;
/// Maximum number of entries of `peakMemoryMetrics`: Spark has 23.
const PEAKS_MAX: usize = 200;
/// Maximum number of executors that a note names; it only counts the others.
const NAMED_MAX: usize = 5;
/// Maximum length of quoted text in bytes, because it is written to logs and terminals.
const QUOTED_MAX: usize = 100;
/// Ids that Spark itself uses for rows other than executors: `SparkContext.DRIVER_IDENTIFIER`, its value before Spark
/// 1.6, and `FallbackStorage.FALLBACK_BLOCK_MANAGER_ID`.
const NO_EXECUTORS: [&str; 3] = ["driver", "<driver>", "fallback"];

/// One executor: the part of Spark's `ExecutorSummary` that Rollcall reads.
#[derive(Debug, PartialEq)]
pub struct Summary<'a> {
    pub id: ExecutorId,
    /// True if the field is missing, because `/executors` lists only active executors.
    pub active: bool,
    pub remove_reason: Option<Cow<'a, str>>,
    pub host_port: Option<Cow<'a, str>>,
    /// `None`: the row lacks at least one of them.
    pub counters: Option<Counters>,
    /// Numbers without a field in the contract, by Spark's names.
    pub others: Vec<(&'static str, i64)>,
    /// `peakMemoryMetrics`, if present.
    pub peaks: BTreeMap<Cow<'a, str>, i64>,
}

/// Reads the rows of a document, and calls the function with each executor.
///
/// Errors about a row begin with its position: `[3].totalTasks: ...`; see [`refusal`].
pub struct Summaries<F>(pub F);

/// Notes for users about the rows that the parser skipped.
#[derive(Debug, Default, PartialEq)]
pub struct Notes {
    /// The number of rows whose id belongs neither to an executor nor to another block manager of Spark.
    pub strangers: u64,
    stranger: Option<String>,
    /// The number of active executors that lack counters.
    lacking: u64,
    lacks: String,
}

impl Notes {
    pub fn is_empty(&self) -> bool {
        self.strangers == 0 && self.lacking == 0
    }

    fn stranger(&mut self, place: usize, id: &str) {
        self.strangers += 1;
        self.stranger.get_or_insert_with(|| format!("[{place}].id: {:?}", quoted(id)));
    }

    fn lacking(&mut self, id: ExecutorId, fields: &[&str]) {
        self.lacking += 1;
        if self.lacking <= NAMED_MAX as u64 {
            let separator = if self.lacks.is_empty() { "" } else { "; " };
            write!(self.lacks, "{separator}executor {id} has no {}", fields.join(", "))
                .expect("writing to a String cannot fail");
        }
    }
}

impl Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stranger) = &self.stranger {
            write!(f, "{stranger} is not a number, as executor ids of Spark on Kubernetes are: skipped")?;
            match self.strangers - 1 {
                0 => {}
                more => write!(f, ", and {more} more")?,
            }
        }
        if self.lacking > 0 {
            let separator = if self.stranger.is_some() { "; " } else { "" };
            write!(f, "{separator}executors without all counters are not candidates: {}", self.lacks)?;
            match self.lacking.saturating_sub(NAMED_MAX as u64) {
                0 => {}
                more => write!(f, "; and {more} more executors")?,
            }
        }
        Ok(())
    }
}

/// Formats an error in a document for users. It gives the position of a field, or, if the input is not JSON, the line
/// and column.
pub fn refusal(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if !error.is_data() {
        return text;
    }
    // The parser's own position is behind the row, so it would mislead.
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).map_or(text.clone(), str::to_owned)
}

/// Sorts executors as Spark's own plugin sees them, in `AppStatusStore.executorList(true)`: by id as text, descending.
/// The order decides which of several equal executors a policy picks, and affects sums of floats.
pub fn in_sparks_order<T>(executors: &mut [T], id: impl Fn(&T) -> u64) {
    executors.sort_by_cached_key(|executor| std::cmp::Reverse(id(executor).to_string()));
}

impl<'de, F: FnMut(Summary<'de>)> Visitor<'de> for Summaries<F> {
    type Value = Notes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the array of Spark's /allexecutors")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut rows: A) -> Result<Notes, A::Error> {
        let mut notes = Notes::default();
        let mut seen = HashSet::new();
        for place in 0..ROWS_MAX {
            let Some(row) = rows.next_element_seed(Level::Row)? else { return Ok(notes) };
            let read = summary(row, place, &mut notes);
            let Some(summary) = read.map_err(|error| A::Error::custom(format_args!("[{place}]{error}")))?
            else {
                continue;
            };
            let id = summary.id;
            if !seen.insert(id) {
                return Err(A::Error::custom(format_args!("[{place}].id: an earlier row also has \"{id}\"")));
            }
            (self.0)(summary);
        }
        match rows.next_element::<IgnoredAny>()? {
            Some(_) => Err(A::Error::custom(format_args!("more than {ROWS_MAX} rows"))),
            None => Ok(notes),
        }
    }
}

/// Returns `None` if the row is not an executor's. Errors begin with the position in the row.
fn summary<'a>(row: Token<'a>, place: usize, notes: &mut Notes) -> Result<Option<Summary<'a>>, String> {
    let mut row = match row {
        Token::Object(row) => row,
        other @ (Token::Null
        | Token::Flag(_)
        | Token::Signed(_)
        | Token::Unsigned(_)
        | Token::Float(_)
        | Token::Text(_)
        | Token::Array) => return Err(format!(": {}", other.is_not("an executor object"))),
    };
    if let Some(wrong) = row.wrong.take() {
        return Err(wrong);
    }
    let id = row.text("id")?.ok_or(".id: missing")?;
    // All other fields of rows that are not executors are ignored.
    let Some(executor) = executor_id(id.as_bytes()) else {
        if !NO_EXECUTORS.contains(&&*id) {
            notes.stranger(place, &id);
        }
        return Ok(None);
    };
    let active = row.flag("isActive")?.unwrap_or(true);
    let remove_reason = row.text("removeReason")?;
    let host_port = row.text("hostPort")?;
    let peaks = row.peaks()?;
    let mut reader = Reader { row: &mut row, peaks: peaks.as_ref(), lacks: Vec::new() };
    let counters = counters(&mut reader)?;
    let lacks = reader.lacks;
    if active && !lacks.is_empty() {
        notes.lacking(executor, &lacks);
    }
    let mut others = Vec::new();
    for name in ["rddBlocks", "totalCores", "maxTasks", "maxMemory"] {
        others.extend(row.long(name)?.map(|number| (name, number)));
    }
    Ok(Some(Summary {
        id: executor,
        active,
        remove_reason,
        host_port,
        counters: lacks.is_empty().then_some(counters),
        others,
        peaks: peaks.unwrap_or_default(),
    }))
}

/// Reads counters of a row.
struct Reader<'r, 'a> {
    row: &'r mut Object<'a>,
    peaks: Option<&'r BTreeMap<Cow<'a, str>, i64>>,
    /// The counters that the row lacks.
    lacks: Vec<&'static str>,
}

impl Reader<'_, '_> {
    fn time(&mut self, name: &'static str) -> Result<i64, String> {
        let time = self.row.text(name)?;
        let time = time.map(|time| spark_time(&time).map_err(|error| format!(".{name}: {error}")));
        Ok(self.needed(name, time.transpose()?))
    }

    fn int(&mut self, name: &'static str) -> Result<i32, String> {
        let number = self.row.int(name)?;
        Ok(self.needed(name, number))
    }

    fn long(&mut self, name: &'static str) -> Result<i64, String> {
        let number = self.row.long(name)?;
        Ok(self.needed(name, number))
    }

    /// Without the map, Spark's plugin uses an `ExecutorMetrics` that was never set. It marks that by -1 in its first
    /// element, which is JVMHeapMemory. A map without the key is different.
    fn peak(&mut self, name: &'static str) -> Result<i64, String> {
        Ok(match self.peaks {
            Some(peaks) => peaks.get(name).copied().unwrap_or(0),
            None if name == "JVMHeapMemory" => -1,
            None => 0,
        })
    }

    fn needed<T: Default>(&mut self, name: &'static str, value: Option<T>) -> T {
        value.unwrap_or_else(|| {
            self.lacks.push(name);
            T::default()
        })
    }
}

macro_rules! counters {
    ($($field:ident: $type:ident = $how:ident($name:literal),)*) => {
        fn counters(reader: &mut Reader<'_, '_>) -> Result<Counters, String> {
            Ok(Counters { $($field: reader.$how($name)?,)* })
        }

        /// The fields of a row that hold counters. Peaks share one field, which may be missing.
        pub fn counter_fields() -> impl Iterator<Item = &'static str> {
            let all = [$((stringify!($how), $name)),*].into_iter();
            all.filter(|(how, _)| *how != "peak").map(|(_, name)| name)
        }
    };
}

fleet::with_counters!(counters);

/// Parses the date format of Spark's REST API: `2026-11-21T09:45:09.856GMT`.
fn spark_time(text: &str) -> Result<i64, String> {
    let rfc3339 = text.strip_suffix("GMT").map(|time| format!("{time}Z"));
    match rfc3339.as_deref().unwrap_or(text).parse::<Timestamp>() {
        Ok(time) => Ok(time.as_millisecond()),
        Err(_) => Err(format!("{:?} is not a time such as 2026-11-21T09:45:09.856GMT", quoted(text))),
    }
}

fn quoted(text: &str) -> &str {
    &text[..text.floor_char_boundary(QUOTED_MAX)]
}

/// Whether this field of `ExecutorSummary` is kept. Spark writes about 30 fields, and `jq -S` sorts them: a row's id
/// may come last, so a field cannot be refused before the whole row is read.
fn is_read(name: &str) -> bool {
    counter_fields().any(|counter| counter == name)
        || matches!(
            name,
            "id" | "hostPort"
                | "isActive"
                | "removeReason"
                | "rddBlocks"
                | "totalCores"
                | "maxTasks"
                | "maxMemory"
                | "peakMemoryMetrics"
        )
}

/// A JSON value in a row, with only as much detail as the parser needs.
enum Token<'a> {
    Null,
    Flag(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(Cow<'a, str>),
    Object(Object<'a>),
    Array,
}

#[derive(Default)]
struct Object<'a> {
    entries: Vec<(Cow<'a, str>, Token<'a>)>,
    /// Why the object cannot be read; begins with the position in it.
    wrong: Option<String>,
}

impl Token<'_> {
    fn unexpected(&self) -> Unexpected<'_> {
        match self {
            Token::Null => Unexpected::Other("null"),
            Token::Flag(flag) => Unexpected::Bool(*flag),
            Token::Signed(number) => Unexpected::Signed(*number),
            Token::Unsigned(number) => Unexpected::Unsigned(*number),
            Token::Float(number) => Unexpected::Float(*number),
            Token::Text(text) => Unexpected::Str(quoted(text)),
            Token::Object(_) => Unexpected::Map,
            Token::Array => Unexpected::Seq,
        }
    }

    fn is_not(&self, expected: &str) -> String {
        format!("invalid type: {}, expected {expected}", self.unexpected())
    }

    /// The number as an integer, in any notation.
    fn integer(&self, expected: &str) -> Result<i64, String> {
        let integer = match *self {
            Token::Signed(number) => Some(number),
            Token::Unsigned(number) => i64::try_from(number).ok(),
            Token::Float(number) => {
                let fits = number.fract() == 0.0 && (-TWO_TO_63..TWO_TO_63).contains(&number);
                fits.then_some(number as i64)
            }
            Token::Null | Token::Flag(_) | Token::Text(_) | Token::Object(_) | Token::Array => {
                return Err(self.is_not(expected));
            }
        };
        integer.ok_or_else(|| self.does_not_fit(expected))
    }

    fn does_not_fit(&self, expected: &str) -> String {
        format!("invalid value: {}, expected {expected}", self.unexpected())
    }
}

/// One more than the largest `i64`; its negative is the smallest `i64`.
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

impl<'a> Object<'a> {
    fn take(&mut self, name: &str) -> Option<Token<'a>> {
        let (_, token) = self.entries.iter_mut().find(|(known, _)| known == name)?;
        let token = std::mem::replace(token, Token::Null);
        (!matches!(token, Token::Null)).then_some(token)
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Token::Flag(flag)) => Ok(Some(flag)),
            Some(other) => Err(format!(".{name}: {}", other.is_not("a boolean"))),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<Cow<'a, str>>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Token::Text(text)) => Ok(Some(text)),
            Some(other) => Err(format!(".{name}: {}", other.is_not("a string"))),
        }
    }

    fn long(&mut self, name: &str) -> Result<Option<i64>, String> {
        let Some(token) = self.take(name) else { return Ok(None) };
        token.integer("i64").map(Some).map_err(|error| format!(".{name}: {error}"))
    }

    fn int(&mut self, name: &str) -> Result<Option<i32>, String> {
        let Some(token) = self.take(name) else { return Ok(None) };
        let int = token
            .integer("i32")
            .and_then(|number| i32::try_from(number).map_err(|_| token.does_not_fit("i32")));
        int.map(Some).map_err(|error| format!(".{name}: {error}"))
    }

    fn peaks(&mut self) -> Result<Option<BTreeMap<Cow<'a, str>, i64>>, String> {
        const NAME: &str = "peakMemoryMetrics";
        let map = match self.take(NAME) {
            None => return Ok(None),
            Some(Token::Object(map)) => map,
            Some(other) => return Err(format!(".{NAME}: {}", other.is_not("an object"))),
        };
        if let Some(wrong) = map.wrong {
            return Err(format!(".{NAME}{wrong}"));
        }
        let mut peaks = BTreeMap::new();
        for (name, token) in map.entries {
            if !matches!(token, Token::Null) {
                let peak = token.integer("i64");
                let peak =
                    peak.map_err(|error| format!(".{NAME}.{}: {error}", quoted(&name).escape_debug()))?;
                peaks.insert(name, peak);
            }
        }
        Ok(Some(peaks))
    }
}

/// The depth of a value in a row. Values deeper than the fields of a row's fields are skipped.
#[derive(Clone, Copy)]
enum Level {
    Row,
    Field,
    Below,
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Token<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Token<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// A key, borrowed if possible.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Accepts any value: errors are reported once it is known which row it belongs to.
impl<'de> Visitor<'de> for Level {
    type Value = Token<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Token<'de>, E> {
        Ok(Token::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Token<'de>, E> {
        Ok(Token::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Token<'de>, E> {
        Ok(Token::Signed(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Token<'de>, E> {
        Ok(Token::Unsigned(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Token<'de>, E> {
        Ok(Token::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Token<'de>, E> {
        Ok(Token::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Token<'de>, E> {
        Ok(Token::Text(Cow::Borrowed(text)))
    }

    fn visit_string<E>(self, text: String) -> Result<Token<'de>, E> {
        Ok(Token::Text(Cow::Owned(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Token<'de>, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Token::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Token<'de>, A::Error> {
        let mut object = Object::default();
        while let Some(Key(name)) = map.next_key()? {
            let (keeps, below) = match self {
                Level::Row => (is_read(&name), Level::Field),
                Level::Field => (true, Level::Below),
                Level::Below => (false, Level::Below),
            };
            if !keeps || object.wrong.is_some() {
                map.next_value::<IgnoredAny>()?;
            } else if object.entries.iter().any(|(known, _)| *known == name) {
                object.wrong = Some(format!(".{}: duplicate key", quoted(&name).escape_debug()));
                map.next_value::<IgnoredAny>()?;
            } else if object.entries.len() == PEAKS_MAX {
                object.wrong = Some(format!(": more than {PEAKS_MAX} entries"));
                map.next_value::<IgnoredAny>()?;
            } else {
                let value = map.next_value_seed(below)?;
                object.entries.push((name, value));
            }
        }
        Ok(Token::Object(object))
    }
}

#[cfg(test)]
mod tests;
