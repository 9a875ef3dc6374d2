//! The log of a guest during a call: bounded, printable, and available when the call fails.

use crate::bindings::rollcall::policy::log::Level;

const LINES: usize = 100;
const LINE_BYTES: usize = 512;

/// A log line of a guest.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// As the guest gave it; `Info` for what it wrote to WASI's standard output or error.
    pub level: LogLevel,
    /// One line without control characters, at most 512 bytes.
    pub message: String,
}

/// The level of a log line: `log.level` of the contract, and the SDK's functions of the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// For the policy's author.
    Debug,
    /// Worth knowing for an operator.
    Info,
    /// Something is odd, and the answer stands.
    Warn,
    /// The answer suffers.
    Error,
}

/// The lines of one call.
#[derive(Debug, Default)]
pub(crate) struct GuestLog {
    lines: Vec<LogLine>,
    dropped: u64,
    /// The last error, kept even when the lines are full: the SDK's panic hook logs one before it traps.
    last_error: Option<String>,
}

impl GuestLog {
    pub(crate) fn write(&mut self, level: Level, message: &str) {
        let level = match level {
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        let message = printable(message, LINE_BYTES);
        if level == LogLevel::Error {
            self.last_error = Some(message.clone());
        }
        if self.lines.len() < LINES {
            self.lines.push(LogLine { level, message });
        } else {
            self.dropped += 1;
        }
    }

    pub(crate) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// The lines that were kept, and how many were dropped.
    pub(crate) fn into_lines(self) -> (Vec<LogLine>, u64) {
        (self.lines, self.dropped)
    }
}

/// The text without control characters, which could forge log lines or drive a terminal, without those
/// that reorder what follows, and not longer than `bytes_max`.
pub fn printable(text: &str, bytes_max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(bytes_max));
    for char in text.chars() {
        let reorders = matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let char = if char.is_control() || reorders { ' ' } else { char };
        if out.len() + char.len_utf8() > bytes_max {
            break;
        }
        out.push(char);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_in_length_and_number_and_cannot_drive_a_terminal() {
        let mut log = GuestLog::default();
        log.write(Level::Info, "red\x1b[31m\nforged line");
        log.write(Level::Error, &"é".repeat(400));
        for _ in 0..200 {
            log.write(Level::Debug, "more");
        }
        log.write(Level::Error, "last words");
        assert_eq!(log.last_error(), Some("last words"));
        let (lines, dropped) = log.into_lines();
        assert_eq!(lines[0].message, "red [31m forged line");
        assert_eq!(lines[1].message.len(), 512);
        assert_eq!((lines.len(), dropped), (100, 103));
    }
}
