//! Roll windows: when rolls may start.
//!
//! Windows are *allow-lists*: if there is any, no roll starts outside of them. A window is defined in local
//! time, so it needs a time zone; the offsets of the zone are looked up at the edge and passed in as a table,
//! because the core reads no files.

/// A weekly or daily span of local time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Days on which it starts, Monday first.
    pub days: [bool; 7],
    /// Local time at which it starts, in minutes after midnight.
    pub start_minute: u32,
    /// How long it is open. It may reach into the next day.
    pub length_minutes: u32,
    /// The time zone of days and start.
    pub zone: Zone,
}

/// A time zone's offsets from UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// IANA name, for users.
    pub name: String,
    /// The offset (ms east of UTC) that holds from each moment (wall clock, ms since the epoch). In order; the
    /// first offset also holds before its moment.
    pub offsets: Vec<(i64, i64)>,
}

impl Zone {
    /// UTC: the zone of a document that names none.
    pub fn utc() -> Zone {
        Zone { name: "UTC".to_owned(), offsets: vec![(0, 0)] }
    }

    fn offset_ms(&self, wall_ms: i64) -> i64 {
        let after = self.offsets.partition_point(|(from_ms, _)| *from_ms <= wall_ms);
        self.offsets.get(after.saturating_sub(1)).map_or(0, |(_, offset_ms)| *offset_ms)
    }
}

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

impl Window {
    pub(crate) fn is_sane(&self) -> bool {
        let length = 1..=24 * 60;
        let zoned = !self.zone.offsets.is_empty();
        zoned
            && self.days.contains(&true)
            && self.start_minute < 24 * 60
            && length.contains(&self.length_minutes)
    }

    /// Is it open at this moment (wall clock, ms since the Unix epoch)? The end is not part of it.
    pub fn is_open(&self, wall_ms: i64) -> bool {
        let local_ms = wall_ms.saturating_add(self.zone.offset_ms(wall_ms));
        let today = local_ms.div_euclid(DAY_MS);
        let length_ms = i64::from(self.length_minutes) * MINUTE_MS;
        // It may have started yesterday.
        [today, today - 1].into_iter().any(|day| {
            // 1970-01-01 was a Thursday.
            let weekday = usize::try_from((day + 3).rem_euclid(7)).unwrap_or(0);
            let start_ms = day * DAY_MS + i64::from(self.start_minute) * MINUTE_MS;
            self.days[weekday] && (start_ms..start_ms + length_ms).contains(&local_ms)
        })
    }
}

/// Is any window open? Without windows, always.
pub fn any_open(windows: &[Window], wall_ms: i64) -> bool {
    windows.is_empty() || windows.iter().any(|window| window.is_open(wall_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    /// Monday, 2026-11-02, 00:00 UTC.
    const MONDAY: i64 = 1_793_577_600_000;

    fn window(days: &str, start_minute: u32, length_minutes: u32) -> Window {
        let mut window = Window { days: [false; 7], start_minute, length_minutes, zone: Zone::utc() };
        for (day, letter) in days.bytes().enumerate() {
            window.days[day] = letter != b'-';
        }
        window
    }

    #[test]
    fn it_is_open_from_its_start_up_to_its_end() {
        let window = window("M------", 2 * 60, 90);
        let open = |ms| window.is_open(MONDAY + ms);
        assert!(!open(2 * HOUR_MS - 1) && open(2 * HOUR_MS) && open(3 * HOUR_MS));
        assert!(!open(3 * HOUR_MS + HOUR_MS / 2) && !open(26 * HOUR_MS));
    }

    #[test]
    fn it_reaches_into_the_next_day() {
        let window = window("------S", 23 * 60, 120);
        assert!(window.is_open(MONDAY + HOUR_MS / 2), "Sunday's window is open early on Monday");
        assert!(!window.is_open(MONDAY + 23 * HOUR_MS));
    }

    #[test]
    fn it_follows_the_zone_through_a_change_of_offset() {
        let mut window = window("MTWTFSS", 8 * 60, 60);
        // Berlin: +2 h until 2026-10-25 01:00 UTC, +1 h after it.
        window.zone.offsets = vec![(0, 2 * HOUR_MS), (1_792_890_000_000, HOUR_MS)];
        assert!(window.is_open(MONDAY + 7 * HOUR_MS), "8:00 in winter is 7:00 UTC");
        assert!(!window.is_open(MONDAY + 6 * HOUR_MS));
        let summer = MONDAY - 14 * 24 * HOUR_MS;
        assert!(window.is_open(summer + 6 * HOUR_MS) && !window.is_open(summer + 7 * HOUR_MS));
    }
}
