//! Values that are written as text: a [`Millis`] is `1h30m`, an [`Amount`] is `25%`.
//!
//! They are parsed during deserialization, so that an error has the place of the value.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time span in milliseconds, written as in Go and Kubernetes: `120s`, `1h30m`, `500ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millis(pub u64);

/// So that no sum of times overflows. The core has tighter limits for most of them.
const LONGEST_MS: u64 = 10 * 365 * 24 * 3_600_000;

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Millis {
    pub fn parse(text: &str) -> Result<Millis, String> {
        if text.starts_with('-') {
            return Err(format!("{text:?} is negative"));
        }
        if text.parse::<f64>().is_ok() {
            return Err(format!("{text:?} has no unit: write {text}s, {text}m or {text}h"));
        }
        let mut ms = 0u64;
        let mut rest = text;
        while !rest.is_empty() || text.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
            let (number, tail) = rest.split_at(digits);
            let unit_ends = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_ends);
            let Some((_, unit_ms)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(format!("{text:?} is not a duration: write for instance 120s, 1h30m or 500ms"));
            };
            let part = parts_ms(number, *unit_ms)
                .ok_or_else(|| format!("{number:?} is not a whole number of milliseconds in {text:?}"))?;
            ms = ms.saturating_add(part);
            rest = tail;
        }
        if ms > LONGEST_MS { Err(format!("{text:?} is longer than 10 years")) } else { Ok(Millis(ms)) }
    }
}

/// `1.5` of a unit; `None` if it is not a number, or not a whole number of ms. Saturates.
fn parts_ms(number: &str, unit_ms: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    // A ms is 1/3,600,000 h: with more decimals it is never a whole number.
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 7 {
        return None;
    }
    let scale = 10u64.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let fraction_ms = fraction * unit_ms;
    let whole = whole.parse().unwrap_or(u64::MAX);
    fraction_ms
        .is_multiple_of(scale)
        .then(|| unit_ms.saturating_mul(whole).saturating_add(fraction_ms / scale))
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, unit_ms) in UNITS {
            if rest >= unit_ms {
                write!(f, "{}{unit}", rest / unit_ms)?;
                rest %= unit_ms;
            }
        }
        Ok(())
    }
}

/// A number of executors, or a share of the target: `3` or `25%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(pub fleet::spec::Amount);

impl Amount {
    pub const fn count(count: u32) -> Amount {
        Amount(fleet::spec::Amount::Count(count))
    }

    pub const fn percent(percent: u32) -> Amount {
        Amount(fleet::spec::Amount::Percent(percent))
    }

    fn parse(text: &str) -> Result<Amount, String> {
        if text.starts_with('-') {
            return Err(format!("{text:?} is negative"));
        }
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.strip_suffix('%') {
            Some(percent) if digits(percent) => {
                percent.parse().map(Amount::percent).map_err(|_| format!("{text:?} is too much"))
            }
            None if digits(text) => Err(format!("{text:?} is text: write {text} or \"{text}%\"")),
            _ => Err(format!("{text:?} is not an amount: write a whole number, or a share such as 25%")),
        }
    }
}

/// A size of a JVM's heap, as in Spark and `-Xmx`: `512m`, `4g`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JvmSize(String);

impl JvmSize {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn parse(text: &str) -> Result<JvmSize, String> {
        let (number, unit) = text.split_at(text.trim_end_matches(|c: char| !c.is_ascii_digit()).len());
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let shift = match unit {
            "k" | "K" => 10,
            "m" | "M" => 20,
            "g" | "G" => 30,
            "t" | "T" => 40,
            "" if digits => return Err(format!("{text:?} has no unit: write {text}g or {text}m")),
            _ => return Err(format!("{text:?} is not a JVM size: write for instance 512m or 4g")),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        match bytes {
            _ if !digits => Err(format!("{text:?} is not a JVM size: write for instance 512m or 4g")),
            // The JVM refuses to start with less.
            Some(bytes) if bytes < 2 << 20 => Err(format!("{text:?} is less than 2m")),
            Some(bytes) if bytes <= 1 << 50 => Ok(JvmSize(text.to_owned())),
            Some(_) | None => Err(format!("{text:?} is more than 1024t")),
        }
    }
}

/// A local time of day: `02:30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay {
    /// Minutes since midnight.
    pub minute: u32,
}

impl TimeOfDay {
    fn parse(text: &str) -> Result<TimeOfDay, String> {
        let two = |text: &str| {
            let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            if digits { text.parse::<u32>().ok() } else { None }
        };
        match text.split_once(':').and_then(|(hour, minute)| Some((two(hour)?, two(minute)?))) {
            Some((hour @ 0..24, minute @ 0..60)) => Ok(TimeOfDay { minute: hour * 60 + minute }),
            _ => Err(format!("{text:?} is not a time of day: write 00:00 to 23:59")),
        }
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minute / 60, self.minute % 60)
    }
}

/// An IANA time zone such as `Europe/Berlin`, with its offset changes of the years 2020 to 2100: a few hundred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeZone(pub fleet::window::Zone);

/// 2020-01-01 and 2100-01-01, UTC, in seconds since the epoch.
const ZONE_FROM_S: i64 = 1_577_836_800;
const ZONE_TO_S: i64 = 4_102_444_800;

impl TimeZone {
    pub fn utc() -> TimeZone {
        TimeZone(fleet::window::Zone::utc())
    }

    fn parse(name: &str) -> Result<TimeZone, String> {
        let zone = jiff::tz::TimeZone::get(name).map_err(|_| {
            let all = jiff::tz::db().available();
            let near = super::schema::nearest(name, all.map(|known| known.as_str().to_owned()));
            let near = near.unwrap_or_else(|| "Europe/Berlin".to_owned());
            format!("{name:?} is not a time zone: write an IANA name such as {near}")
        })?;
        let start = Timestamp::constant(ZONE_FROM_S, 0);
        let ms = |offset: jiff::tz::Offset| i64::from(offset.seconds()) * 1_000;
        let mut offsets = vec![(start.as_millisecond(), ms(zone.to_offset(start)))];
        let changes = zone.following(start).take_while(|change| change.timestamp().as_second() < ZONE_TO_S);
        for change in changes {
            let offset_ms = ms(change.offset());
            if offsets.last().is_some_and(|(_, last_ms)| *last_ms != offset_ms) {
                offsets.push((change.timestamp().as_millisecond(), offset_ms));
            }
        }
        Ok(TimeZone(fleet::window::Zone { name: name.to_owned(), offsets }))
    }
}

/// A label or taint of a node: `KEY`, `KEY=VALUE` or `PREFIX*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePattern(pub cluster::node::Pattern);

impl NodePattern {
    fn parse(text: &str) -> Result<NodePattern, String> {
        text.parse().map(NodePattern)
    }
}

/// Text that is parsed; a bare number has its own error message.
struct Text<T> {
    expecting: &'static str,
    parse: fn(&str) -> Result<T, String>,
    number: fn(u64) -> Result<T, String>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        (self.number)(number).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::custom(format_args!("{number} is negative"))),
        }
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        match (self.parse)(&number.to_string()) {
            Err(message) if number >= 0.0 => Err(E::custom(message)),
            _ => Err(E::invalid_type(Unexpected::Float(number), &self)),
        }
    }
}

/// `Deserialize`, `Serialize` as the text, and the schema.
macro_rules! text {
    ($type:ident, $expecting:literal, $number:expr, |$self:ident| $text:expr, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let text = Text { expecting: $expecting, parse: $type::parse, number: $number };
                deserializer.deserialize_any(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let $self = self;
                $text.serialize(serializer)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

text!(
    Millis,
    "a duration such as 120s",
    |number| Millis::parse(&number.to_string()),
    |ms| ms.to_string(),
    { "type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(h|m|s|ms))+$" }
);
text!(
    Amount,
    "a whole number, or a share such as 25%",
    |number| u32::try_from(number).map(Amount::count).map_err(|_| format!("{number} is too much")),
    |amount| match amount.0 {
        fleet::spec::Amount::Count(count) => CountOrShare::Count(count),
        fleet::spec::Amount::Percent(percent) => CountOrShare::Share(format!("{percent}%")),
    },
    // As Kubernetes writes it, and as its API server wants it in a definition.
    {
        "anyOf": [{ "type": "integer" }, { "type": "string" }],
        "minimum": 0,
        "pattern": "^[0-9]+%$",
        "x-kubernetes-int-or-string": true
    }
);
text!(
    JvmSize,
    "a JVM size such as 4g",
    |number| JvmSize::parse(&number.to_string()),
    |size| size.0,
    { "type": "string", "pattern": "^[0-9]+[kKmMgGtT]$" }
);
text!(
    TimeOfDay,
    "a time of day such as 02:30",
    |number| TimeOfDay::parse(&number.to_string()),
    |time| time.to_string(),
    { "type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$" }
);
text!(
    TimeZone,
    "a time zone such as Europe/Berlin",
    |number| TimeZone::parse(&number.to_string()),
    |zone| zone.0.name,
    { "type": "string" }
);

text!(
    NodePattern,
    "a label or taint such as karpenter.sh/disrupted",
    |number| NodePattern::parse(&number.to_string()),
    |pattern| pattern.0.to_string(),
    { "type": "string", "pattern": r"^[A-Za-z0-9._/*-]+(=[A-Za-z0-9._-]*)?$" }
);

#[derive(Serialize)]
#[serde(untagged)]
enum CountOrShare {
    Count(u32),
    Share(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos_without_what_is_finer_than_a_millisecond() {
        for (text, ms) in [
            ("120s", 120_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            ("0.001s", 1),
            ("0s", 0),
            ("1h0m0.250s", 3_600_250),
            ("1m1ms", 60_001),
            ("87600h", LONGEST_MS),
        ] {
            assert_eq!(Millis::parse(text), Ok(Millis(ms)), "{text}");
        }
        for (text, message) in [
            ("", "\"\" is not a duration: write for instance 120s, 1h30m or 500ms"),
            ("120", "\"120\" has no unit: write 120s, 120m or 120h"),
            ("-5s", "\"-5s\" is negative"),
            ("s", "\"\" is not a whole number of milliseconds in \"s\""),
            ("1.5.2s", "\"1.5.2\" is not a whole number of milliseconds in \"1.5.2s\""),
            ("0.5ms", "\"0.5\" is not a whole number of milliseconds in \"0.5ms\""),
            ("1d", "\"1d\" is not a duration: write for instance 120s, 1h30m or 500ms"),
            ("1h 30m", "\"1h 30m\" is not a duration: write for instance 120s, 1h30m or 500ms"),
            ("5us", "\"5us\" is not a duration: write for instance 120s, 1h30m or 500ms"),
            ("99999999999999999999999h", "\"99999999999999999999999h\" is longer than 10 years"),
            ("5000000000h", "\"5000000000h\" is longer than 10 years"),
            ("87600h1ms", "\"87600h1ms\" is longer than 10 years"),
        ] {
            assert_eq!(Millis::parse(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for ms in [0, 1, 999, 1_000, 61_001, 5_400_000, 86_400_000, LONGEST_MS] {
            assert_eq!(Millis::parse(&Millis(ms).to_string()), Ok(Millis(ms)));
        }
        assert_eq!(Millis(5_400_250).to_string(), "1h30m250ms");
    }

    #[test]
    fn amounts_are_numbers_or_shares() {
        let read = |json: &str| serde_json::from_str::<Amount>(json).map_err(|error| error.to_string());
        assert_eq!(read("3"), Ok(Amount::count(3)));
        assert_eq!(read("\"25%\""), Ok(Amount::percent(25)));
        for (json, message) in [
            ("-1", "-1 is negative"),
            ("4294967296", "4294967296 is too much"),
            ("\"4294967296%\"", "\"4294967296%\" is too much"),
            ("\"-5%\"", "\"-5%\" is negative"),
            ("\"3\"", "\"3\" is text: write 3 or \"3%\""),
            ("\"%\"", "\"%\" is not an amount: write a whole number, or a share such as 25%"),
            ("\"2.5%\"", "\"2.5%\" is not an amount: write a whole number, or a share such as 25%"),
            ("2.5", "\"2.5\" is not an amount: write a whole number, or a share such as 25%"),
            ("true", "invalid type: boolean `true`, expected a whole number, or a share such as 25%"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.starts_with(message), "{json}: {error}");
        }
    }

    #[test]
    fn jvm_sizes_have_a_unit_and_a_sane_value() {
        for good in ["1g", "512m", "2048k", "4T", "1024t"] {
            assert_eq!(JvmSize::parse(good).map(|size| size.0), Ok(good.to_owned()));
        }
        for bad in ["", "g", "1", "1gb", "1.5g", "0g", "1k", "-1g", "1025t", "99999999999999999999g", "g1"] {
            assert!(JvmSize::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_of_day() {
        assert_eq!(TimeOfDay::parse("23:59"), Ok(TimeOfDay { minute: 1_439 }));
        for bad in ["24:00", "2:30", "02:60", "0230", "", "-1:00", "+2:30"] {
            assert!(TimeOfDay::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_zone_has_its_offsets() {
        let berlin = TimeZone::parse("Europe/Berlin").unwrap().0;
        // Winter time from 2026-10-25 01:00 UTC.
        assert!(berlin.offsets.contains(&(1_792_890_000_000, 3_600_000)), "{berlin:?}");
        // Two changes in each of 80 years, plus the initial offset.
        assert_eq!(berlin.offsets.len(), 161);
        assert_eq!(TimeZone::parse("UTC").unwrap().0.offsets.len(), 1);
        let error = TimeZone::parse("Europe/Berln").unwrap_err();
        assert_eq!(error, "\"Europe/Berln\" is not a time zone: write an IANA name such as Europe/Berlin");
    }
}
