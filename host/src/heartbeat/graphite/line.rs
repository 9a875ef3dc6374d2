//! One line of Graphite's plain text: `<name> <value> <epoch seconds>`. Parsing allocates nothing.

use fleet::id::ExecutorId;

/// Maximum length in bytes; a longer line is not parsed. Spark's longest is about 120.
pub const LINE_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line<'a> {
    /// `<prefix.><namespace>.<executor id>.<metric>`.
    pub name: &'a [u8],
    /// May be NaN or infinite: Spark sends this for a ratio with a zero denominator.
    pub value: f64,
    pub time_s: u64,
}

/// Why a line cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("it is not `name value time`, with one space between")]
    Parts,
    #[error("its value is not a number")]
    Value,
    #[error("its time is not a whole number of seconds")]
    Time,
    #[error("no executor id follows what the fleet's names begin with")]
    NoExecutor,
    #[error("it is longer than {LINE_MAX} bytes")]
    TooLong,
}

/// Without its newline.
pub fn parse(line: &[u8]) -> Result<Line<'_>, Flaw> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(name), Some(value), Some(time), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Flaw::Parts);
    };
    if name.is_empty() {
        return Err(Flaw::Parts);
    }
    let value = str::from_utf8(value).ok().and_then(|value| value.parse().ok()).ok_or(Flaw::Value)?;
    Ok(Line { name, value, time_s: digits(time).ok_or(Flaw::Time)? })
}

/// The sender of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Driver,
    Executor(ExecutorId),
}

/// Strips `<executor id>.` from the part after a head and its dot. Also returns its length.
pub fn whose(rest: &[u8]) -> Option<(Whose, usize)> {
    let end = rest.iter().position(|byte| *byte == b'.')?;
    let whose = match &rest[..end] {
        b"driver" => Whose::Driver,
        id => Whose::Executor(executor_id(id)?),
    };
    Some((whose, end + 1))
}

/// Canonical: no sign and no leading zeroes, so that an executor has only one name.
pub fn executor_id(text: &[u8]) -> Option<ExecutorId> {
    let canonical = text.first() != Some(&b'0') || text.len() == 1;
    let id = ExecutorId(digits(text).filter(|_| canonical)?);
    (id <= ExecutorId::MAX).then_some(id)
}

/// At most 12 digits: no overflow.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 12 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |number, digit| 10 * number + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_a_value_and_a_time() {
        let line = parse(b"spark-1.3.executor.runTime.count 1.5e3 1795254314").unwrap();
        assert_eq!(
            line,
            Line { name: b"spark-1.3.executor.runTime.count", value: 1500.0, time_s: 1_795_254_314 }
        );
        assert_eq!(parse(b"a.1.b -7 1\r").map(|line| line.value), Ok(-7.0));
        assert!(parse(b"a.1.b NaN 1").unwrap().value.is_nan());
        assert!(parse(b"a.1.b Infinity 1").unwrap().value.is_infinite());
        assert!(parse(b"a.1.b 1e999 1").unwrap().value.is_infinite());
    }

    #[test]
    fn garbage_is_not_a_line() {
        let bad: [(&[u8], Flaw); 14] = [
            (b"", Flaw::Parts),
            (b" ", Flaw::Parts),
            (b"a", Flaw::Parts),
            (b"a 1", Flaw::Parts),
            (b" 1 1", Flaw::Parts),
            (b"a  1 1", Flaw::Parts),
            (b"a 1 1 ", Flaw::Parts),
            (b"a 1 1 1", Flaw::Parts),
            (b"a 1 -1", Flaw::Time),
            (b"a 1 1.5", Flaw::Time),
            (b"a one 1", Flaw::Value),
            (b"a 0x10 1", Flaw::Value),
            (b"a 1 1234567890123", Flaw::Time),
            (b"a \xff 1", Flaw::Value),
        ];
        for (line, flaw) in bad {
            assert_eq!(parse(line), Err(flaw), "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn ids_are_canonical_numbers_that_spark_can_have() {
        assert_eq!(executor_id(b"0"), Some(ExecutorId(0)));
        assert_eq!(executor_id(b"2147483647"), Some(ExecutorId::MAX));
        for bad in ["", "2147483648", "007", "+1", "-1", "1e3", "1 ", "18446744073709551617", "١"] {
            assert_eq!(executor_id(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(whose(b"12.executor"), Some((Whose::Executor(ExecutorId(12)), 3)));
        assert_eq!(whose(b"driver.jvm"), Some((Whose::Driver, 7)));
        assert_eq!(whose(b"12"), None);
        assert_eq!(whose(b"executor.x"), None);
    }
}
