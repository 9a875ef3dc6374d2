//! Output shared by all commands: tables for users, JSON for scripts.
//!
//! File names and the contents of documents are untrusted. In text output, a character that would control the terminal
//! is printed as U+FFFD; JSON escapes such characters itself.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

/// One JSON document, or one line of JSON Lines.
pub fn json(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// One line of text.
pub fn line(text: impl Display) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{}", tame(&text.to_string()))?)
}

/// Prints a message to standard error, in addition to the answer. Ignores a closed standard error.
pub fn tell(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{}", tame(&text.to_string()));
}

/// Replaces control characters, except line breaks and tabs, and the characters that change the direction of the
/// following text.
pub fn tame(text: &str) -> String {
    let wild = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if wild(c) { '\u{fffd}' } else { c }).collect()
}

/// Standard error for the text log, whose messages may also contain untrusted text. Of the formatter's own escape
/// sequences only its colours are let through.
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(tame_log(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn tame_log(text: &str) -> String {
    const COLOURS: [&str; 10] = ["0m", "1m", "2m", "3m", "31m", "32m", "33m", "34m", "35m", "36m"];
    let mut parts = text.split("\x1b[");
    let mut out = tame(parts.next().unwrap_or_default());
    for part in parts {
        let colour = COLOURS.iter().any(|colour| part.starts_with(colour));
        out.push_str(if colour { "\x1b[" } else { "\u{fffd}[" });
        out.push_str(&tame(part));
    }
    out
}

/// Prints a table. Each column is as wide as its widest cell; the last column is not padded.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = io::stdout().lock();
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&header).chain(rows) {
        let padded = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        // A cell must stay on one line.
        let row = tame(padded.collect::<Vec<_>>().join("  ").trim_end()).replace(['\n', '\t'], "\u{fffd}");
        writeln!(out, "{row}")?;
    }
    Ok(())
}

/// Shows the progress on one line that the next call overwrites; `""` clears it. Only if standard error is a terminal.
pub fn progress(text: &str) {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr().lock(), "\r\x1b[K{}", tame(text));
    }
}

/// Whether the reader of our output, for instance `head`, has closed it.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::{tame, tame_log};

    #[test]
    fn what_drives_a_terminal_is_not_printed() {
        assert_eq!(tame("a\tb\nc"), "a\tb\nc");
        assert_eq!(
            tame("\x1b[2J\r\u{9b}31m\x07\u{202e}x\u{7f}"),
            "\u{fffd}[2J\u{fffd}\u{fffd}31m\u{fffd}\u{fffd}x\u{fffd}"
        );
        assert_eq!(
            tame_log("\x1b[2mtime\x1b[0m \x1b[8mhidden \x1b]0;title\x07\n"),
            "\x1b[2mtime\x1b[0m \u{fffd}[8mhidden \u{fffd}]0;title\u{fffd}\n"
        );
    }
}
