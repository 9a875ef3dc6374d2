//! Time as the API writes it: RFC 3339 in UTC, to the second.

/// `2026-11-21T09:45:09Z`, from milliseconds since 1970.
pub(crate) fn rfc3339(wall_ms: i64) -> String {
    let (date, hour, minute, second) = fields(wall_ms);
    format!("{date}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `2026-11-21T09:45:09.856GMT`, as Spark's REST API writes it.
pub(crate) fn spark_time(wall_ms: i64) -> String {
    let (date, hour, minute, second) = fields(wall_ms);
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{:03}GMT", wall_ms.rem_euclid(1000))
}

/// Milliseconds since 1970. `None` when it is not a time in UTC; fractions of a second are dropped.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.split('.').next()?.splitn(3, ':').map(str::parse::<i64>);
    let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    let sane = (0..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    sane.then(|| (days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second) * 1000)
}

fn fields(wall_ms: i64) -> (String, i64, i64, i64) {
    let seconds = wall_ms.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    (format!("{year:04}-{month:02}-{day:02}"), second / 3600, second / 60 % 60, second % 60)
}

// Howard Hinnant's algorithms: a year starts in March, so that the leap day is its last.

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_795_254_309_000, "2026-11-21T09:45:09Z"),
            (4_102_444_799_000, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
            assert_eq!(parse(text), Some(ms));
        }
        // From the captured `allexecutors`.
        assert_eq!(spark_time(1_795_254_309_856), "2026-11-21T09:45:09.856GMT");
        assert_eq!(parse("2026-11-21T09:45:09.999999Z"), Some(1_795_254_309_000));
        for bad in ["", "2026-11-21", "2026-13-21T09:45:09Z", "2026-11-21T09:45:09+01:00", "aTbZ"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
