//! One TCP connection: splits bytes into lines, in one buffer of fixed size.

use std::time::Duration;

use fleet::bucket::Bucket;
use fleet::event::Impairment;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep, timeout_at};

use super::Limits;
use super::batch::{Gatherer, Heard};
use super::line::LINE_MAX;
use super::places::Seat;
use super::price::Price;
use crate::heartbeat::{Fate, Intake, Source};

/// Room for the rest of an unfinished line and three times as much.
const BUFFER_BYTES: usize = 4 * LINE_MAX;
/// How much of an oversized line is skipped while looking for its end.
const SKIPPED_MAX: usize = 64 * 1024;

/// Runs until the peer closes the connection, or a limit is exceeded.
pub async fn serve(
    mut stream: impl AsyncRead + Unpin,
    mut gatherer: Gatherer,
    mut seat: Seat,
    intake: &Intake,
    limits: &Limits,
) {
    let started = Instant::now();
    let mut lines = Lines::default();
    let rate = limits.rate();
    let mut bucket = Bucket::full(started);
    let mut useful_at = started;
    let mut unfinished_since = Some(started);
    let mut price = Price::default();
    let mut warned = false;
    loop {
        let patience_ms = if seat.is_proven() { limits.idle_ms } else { limits.unproven_ms };
        let idle_at = useful_at + Duration::from_millis(patience_ms);
        let slow_at = unfinished_since.map(|since| since + Duration::from_millis(limits.unfinished_ms));
        let close_at = slow_at.map_or(idle_at, |slow_at| slow_at.min(idle_at));
        let wake_at = gatherer.due().map_or(close_at, |due| due.min(close_at));
        // A peer that sends continuously must not defeat the timeout: `timeout_at` polls its timer second.
        if Instant::now() >= close_at {
            intake.counters.add(Source::Graphite, Fate::IdleClosed);
            break;
        }
        let read = timeout_at(wake_at, stream.read(lines.room())).await;
        let now = Instant::now();
        let length = match read {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(length)) => length,
            Err(_) => {
                gatherer.flush_due(intake, now);
                continue;
            }
        };
        let (mut cost_lines, mut useful, mut relays) = (0, false, false);
        let ended = lines.take(length, |line| {
            let heard = match line {
                Ok(line) => gatherer.feed(intake, line, now),
                Err(beginning) => gatherer.too_long(intake, beginning, now),
            };
            cost_lines += price.of(heard, gatherer.is_relayed());
            useful |= matches!(heard, Heard::First | Heard::More);
            relays |= heard == Heard::First && gatherer.is_relayed();
        });
        if useful {
            useful_at = now;
            seat.useful(relays, now);
        } else if ended > 0 && !seat.is_proven() {
            seat.useless();
        }
        if lines.skipped > SKIPPED_MAX {
            break;
        }
        unfinished_since = match unfinished_since {
            _ if lines.is_empty() => None,
            Some(since) if ended == 0 => Some(since),
            Some(_) | None => Some(now),
        };
        bucket.spend(cost_lines, rate, now);
        // One buffer costs at most 9,000 lines, so at the default rate this is at most 5 s.
        let wait = bucket.wait(0, rate, now);
        if !wait.is_zero() {
            intake.counters.add(Source::Graphite, Fate::RateLimited);
            gatherer.impair(intake, Impairment::Refused, seat.relays());
            if gatherer.is_open() && !std::mem::replace(&mut warned, true) {
                tracing::warn!(
                    peer = %gatherer.peer(),
                    "a Graphite connection is throttled, because it exceeds the rate of one executor: executors may \
                     seem silent. Behind a relay set heartbeat.checkPeer: false, and give it several connections"
                );
            }
            gatherer.flush(intake);
            sleep(wait).await;
        }
    }
    // A last line without newline may be truncated in the middle of a number.
    gatherer.flush(intake);
}

/// Received bytes that are not split into lines yet.
pub struct Lines {
    buffer: Box<[u8; BUFFER_BYTES]>,
    /// The beginning of a line; at most [`LINE_MAX`].
    filled: usize,
    /// How much of an oversized line was dropped.
    skipped: usize,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines { buffer: Box::new([0; BUFFER_BYTES]), filled: 0, skipped: 0 }
    }
}

impl Lines {
    /// The buffer to read into; never empty.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// There is no unfinished line.
    fn is_empty(&self) -> bool {
        self.filled == 0 && self.skipped == 0
    }

    /// Passes on every line that the last `length` bytes completed (`Err`: the beginning of an oversized one) and
    /// returns their number.
    pub fn take(&mut self, length: usize, mut each: impl FnMut(Result<&[u8], &[u8]>)) -> usize {
        let end = self.filled + length;
        let (mut start, mut from, mut ended) = (0, self.filled, 0);
        while let Some(at) = self.buffer[from..end].iter().position(|byte| *byte == b'\n') {
            let line = &self.buffer[start..from + at];
            // A skipped line has been counted.
            if self.skipped == 0 {
                each(if line.len() <= LINE_MAX { Ok(line) } else { Err(line) });
            }
            self.skipped = 0;
            ended += 1;
            start = from + at + 1;
            from = start;
        }
        let rest = end - start;
        if self.skipped > 0 {
            self.skipped += rest;
            self.filled = 0;
        } else if rest > LINE_MAX {
            each(Err(&self.buffer[start..end]));
            self.skipped = rest;
            self.filled = 0;
        } else {
            self.buffer.copy_within(start..end, 0);
            self.filled = rest;
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines do not depend on how the stream is split.
    #[test]
    fn lines_do_not_depend_on_where_the_stream_is_cut() {
        let long = "x".repeat(LINE_MAX);
        let longer = "y".repeat(5 * LINE_MAX);
        let text = format!("a\n\n{long}\n{long}z\nb\n{longer}\nc\nunfinished");
        let expected = [Some("a"), Some(""), Some(&*long), None, Some("b"), None, Some("c")];
        for piece in [1, 2, 3, 7, 1_000, 1_025, 3_072] {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            let mut ended = 0;
            for bytes in text.as_bytes().chunks(piece) {
                lines.room()[..bytes.len()].copy_from_slice(bytes);
                ended += lines.take(bytes.len(), |line| seen.push(line.ok().map(<[u8]>::to_vec)));
            }
            let seen: Vec<_> =
                seen.iter().map(|line| line.as_deref().map(|line| str::from_utf8(line).unwrap())).collect();
            assert_eq!(seen, expected, "in pieces of {piece}");
            assert_eq!((ended, lines.filled, lines.skipped), (7, "unfinished".len(), 0));
        }
    }
}
