//! One error in the configuration, in the style of a compiler: place, message, remedy.

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};
use serde_saphyr::{Error, MessageFormatter, UserMessageFormatter};

use super::load::{DEPTH_MAX, NODES_MAX, TEXT_BYTES_MAX};
use super::schema;

/// What is wrong, where, and how to fix it. All text is printable and short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    #[serde(serialize_with = "lossy")]
    pub file: PathBuf,
    /// Counted from 1, if known.
    pub line: Option<u32>,
    pub column: Option<u32>,
    /// Which document of the file, counted from 1; `None`: the file itself.
    pub document: Option<u32>,
    /// The field, for instance `spec.roll.windows[0].start`; empty for the whole document.
    pub path: String,
    pub message: String,
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", printable(&self.file.to_string_lossy()))?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        if let Some(document) = self.document {
            write!(f, ": document {document}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl Problem {
    pub(super) fn new(file: PathBuf, message: impl Into<String>) -> Problem {
        Problem {
            file,
            line: None,
            column: None,
            document: None,
            path: String::new(),
            message: printable(&message.into()),
            help: None,
        }
    }

    pub(super) fn of_document(mut self, document: u32) -> Problem {
        self.document = Some(document);
        self
    }

    pub(super) fn at(mut self, path: &str) -> Problem {
        self.path = printable(path);
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(printable(&help.into()));
        self
    }

    /// Converts an error of the YAML reader. `path` is its location; `line_offset` is the number of lines before the
    /// document.
    pub(super) fn of_yaml(file: PathBuf, error: &Error, path: &str, line_offset: u32) -> Problem {
        // The wrapper only says that the value came from an alias.
        let place = error.location();
        let mut error = error;
        while let Error::AliasError { error: within, .. } = error {
            error = within;
        }
        // `?` stands for a key that could not be read.
        let key = path.ends_with('?');
        let path = path.trim_end_matches('?').trim_end_matches('.');
        let mut problem = Problem::new(file, UserMessageFormatter.format_message(error)).at(path);
        if let Some(location) = place {
            problem.line = u32::try_from(location.line()).ok().map(|line| line + line_offset);
            problem.column = u32::try_from(location.column()).ok();
        }
        if let Error::SerdeUnknownField { field, expected, .. } = error {
            problem.message = "unknown field".to_owned();
            problem.help(unknown_field(path, field, expected))
        } else if let Error::SerdeMissingField { field, .. } = error {
            problem.message = "is required".to_owned();
            let path = if path.is_empty() { (*field).to_owned() } else { format!("{path}.{field}") };
            problem.at(&path)
        } else if matches!(error, Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. }) {
            problem.message = "is too large".to_owned();
            problem.help(format!(
                "a document has at most {DEPTH_MAX} levels, {NODES_MAX} values and {TEXT_BYTES_MAX} bytes of text, \
                 what aliases repeat included"
            ))
        } else if let Error::SerdeUnknownVariant { expected, .. } = error {
            problem.message = format!("must be {}", expected.join(" or "));
            problem
        } else if let (true, Some(kind)) = (!key && is_of_wrong_type(error), schema::kind(path)) {
            problem.message = format!("must be {kind}");
            problem
        } else {
            problem
        }
    }
}

fn unknown_field(path: &str, field: &str, known: &[&str]) -> String {
    if path == "spec.heartbeat.token" {
        return "a secret does not belong into a document: write it to a file and give `tokenFile`"
            .to_owned();
    }
    match schema::suggest(path) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("leave out `{field}`"),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// The reader's message names its own types, and the schema has better terms.
fn is_of_wrong_type(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidScalar { .. }
            | Error::InvalidBooleanStrict { .. }
            | Error::NullIntoString { .. }
            | Error::Unexpected { .. }
            | Error::SerdeInvalidType { .. }
            | Error::SerdeInvalidValue { .. }
    )
}

/// No control characters, and at most a few lines.
fn printable(text: &str) -> String {
    const CHARS_MAX: usize = 600;
    let mut out: String =
        text.chars().take(CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

fn lossy<S: Serializer>(path: &std::path::Path, serializer: S) -> Result<S::Ok, S::Error> {
    path.to_string_lossy().serialize(serializer)
}
