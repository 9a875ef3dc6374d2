//! Blessing: with `UPDATE_TIMELINES=1`, a timeline whose output differs is corrected in its source.
//!
//! `check` knows the file, line and column of its caller. The timeline stands there as a string literal, so the
//! output that came can be written over the output that was expected. Events, comments and empty lines stay.
//!
//! Many tests of one file are corrected by one process, on several threads, and each of them knows only the lines
//! that the compiler saw. So a file is read once, before its first correction. All places are counted in that text,
//! and each correction writes the file again, with all corrections so far.
//!
//! A literal is replaced only if it is, character by character, the timeline that was compiled. A file that was
//! edited since then is not changed.
//!
//! Rejected: a search for the timeline near the line, because two timelines of one file may be equal. Rejected: the
//! crate `expect-test`, because it replaces a literal as a whole, and here events and comments are part of it.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a tool of the tests, which run on threads; it reads and writes their sources"
)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The files that this process corrects.
static SOURCES: Mutex<BTreeMap<PathBuf, Source>> = Mutex::new(BTreeMap::new());

pub fn wanted() -> bool {
    std::env::var("UPDATE_TIMELINES").is_ok_and(|value| value == "1")
}

/// Writes what was heard into the source of the timeline.
pub fn bless(caller: &Location, timeline: &str, heard: &str) {
    bless_in(&path(caller), caller.line(), caller.column(), timeline, heard)
        .unwrap_or_else(|error| panic!("{caller}: {error}"));
}

/// The compiler names files from the workspace's root, tests run in the folder of their crate.
fn path(caller: &Location) -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = crate_folder.ancestors().map(|folder| folder.join(caller.file()));
    paths.find(|path| path.is_file()).unwrap_or_else(|| panic!("there is no file {}", caller.file()))
}

fn bless_in(path: &Path, line: u32, column: u32, timeline: &str, heard: &str) -> Result<(), String> {
    let mut sources = SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
    if !sources.contains_key(path) {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        sources.insert(path.to_owned(), Source { text, corrections: BTreeMap::new() });
    }
    let source = sources.get_mut(path).expect("it was inserted");
    source.correct(line, column, timeline, heard)?;
    fs::write(path, source.corrected()).map_err(|error| error.to_string())
}

struct Source {
    /// The file as it was compiled.
    text: String,
    /// Start of a literal's content -> its end, and the new content.
    corrections: BTreeMap<usize, (usize, String)>,
}

impl Source {
    fn correct(&mut self, line: u32, column: u32, timeline: &str, heard: &str) -> Result<(), String> {
        let place = literal(&self.text, line, column, &escaped(timeline)).ok_or(
            "the call does not contain its timeline as a plain string literal, or the file was edited after \
             it was compiled",
        )?;
        let new = escaped(&merged(timeline, heard));
        match self.corrections.get(&place.start) {
            Some((_, other)) if *other != new => {
                Err("this call runs several times, with different output".to_owned())
            }
            _ => {
                self.corrections.insert(place.start, (place.end, new));
                Ok(())
            }
        }
    }

    fn corrected(&self) -> String {
        let mut text = self.text.clone();
        // From the bottom to the top: a correction moves only what stands below it.
        for (start, (end, new)) in self.corrections.iter().rev() {
            text.replace_range(*start..*end, new);
        }
        text
    }
}

/// As it is written in a string literal.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// The content of the literal that is written like this, among the arguments of the call at that place.
fn literal(text: &str, line: u32, column: u32, content: &str) -> Option<Range<usize>> {
    let line_start: usize = text.split_inclusive('\n').take(line as usize - 1).map(str::len).sum();
    let before: usize = text.get(line_start..)?.chars().take(column as usize - 1).map(char::len_utf8).sum();
    let call = line_start + before;
    let mut characters = text.get(call..)?.char_indices();
    let mut depth = 0;
    while let Some((at, character)) = characters.next() {
        match character {
            '(' => depth += 1,
            ')' if depth == 1 => return None,
            ')' => depth -= 1,
            '"' => {
                let start = call + at + 1;
                let end = loop {
                    match characters.next()? {
                        (_, '\\') => drop(characters.next()?),
                        (at, '"') => break call + at,
                        _ => {}
                    }
                };
                if text[start..end] == *content {
                    return Some(start..end);
                }
            }
            _ => {}
        }
    }
    None
}

/// The timeline with the output that was heard. Expected lines that came stay where they are, also between comments.
fn merged(timeline: &str, heard: &str) -> String {
    let mut lines = Vec::new();
    for (told, heard) in segments(timeline).into_iter().zip(segments(heard)) {
        let first = told.first().copied().unwrap_or_default();
        let indent = &first[..first.len() - first.trim_start().len()];
        let old: Vec<&str> = told.iter().copied().filter(is_output).map(str::trim).collect();
        let new: Vec<&str> = heard.iter().copied().filter(is_output).map(str::trim).collect();
        let head = equal(old.iter().zip(&new));
        let tail = equal(old[head..].iter().rev().zip(new[head..].iter().rev()));
        let last = old.len() - tail;
        let mut came = new[head..new.len() - tail].iter().map(|line| format!("{indent}    {line}"));
        let mut passed = 0;
        for line in told {
            if !is_output(&line) {
                lines.push(line.to_owned());
            } else {
                if (head..last).contains(&passed) {
                    lines.extend(came.next());
                } else {
                    lines.push(line.to_owned());
                }
                passed += 1;
            }
            // After the last line that is replaced, or the line behind which more has to stand.
            if passed == last && (is_event(&line) || is_output(&line)) {
                lines.extend(came.by_ref());
            }
        }
    }
    lines.join("\n")
}

/// The number of equal pairs at the beginning.
fn equal<T: PartialEq>(mut pairs: impl Iterator<Item = (T, T)>) -> usize {
    pairs.by_ref().take_while(|(one, other)| one == other).count()
}

/// The lines before the first event, and each event with the lines below it.
fn segments(text: &str) -> Vec<Vec<&str>> {
    let mut segments = vec![vec![]];
    for line in text.split('\n') {
        if is_event(&line) {
            segments.push(vec![]);
        }
        segments.last_mut().expect("there is one").push(line);
    }
    segments
}

fn is_output(line: &&str) -> bool {
    line.trim_start().starts_with('>')
}

fn is_event(line: &&str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with(['>', '#'])
}

#[cfg(test)]
mod tests {
    use super::super::{check, run, spec};
    use super::*;

    /// Three timelines, of which two are equal. `check` is at column 5 of each `at`.
    const SOURCE: &str = r#"
fn first() {
    check(
        spec("µ"),
        "
        # A comment, and then an event.
        0s lead
            > 0s create 9
        # It stays between the outputs.
            > 0s create 2

        1s start 1 2
            > 2s nothing of this
            > 3s \"nothing\" of that
        2s wait
        ",
    );
}

fn second() {
    check(spec(), "0s lead\n");
    let µ = 1; check(spec(), "
        0s lead
    ");
    check(spec(), "
        0s lead
    ");
}
"#;

    const FIRST: &str = "
        # A comment, and then an event.
        0s lead
            > 0s create 9
        # It stays between the outputs.
            > 0s create 2

        1s start 1 2
            > 2s nothing of this
            > 3s \"nothing\" of that
        2s wait
        ";

    const SECOND: &str = "
        0s lead
    ";

    const BLESSED: &str = r#"
fn first() {
    check(
        spec("µ"),
        "
        # A comment, and then an event.
        0s lead
            > 0s create 1
        # It stays between the outputs.
            > 0s create 2
            > 0s create 3

        1s start 1 2
        2s wait
            > 2s says \"C:\\\"
        ",
    );
}

fn second() {
    check(spec(), "0s lead\n");
    let µ = 1; check(spec(), "
        0s lead
            > 0s create 1
    ");
    check(spec(), "
        0s lead
            > 0s create 2
            > 0s create 3
    ");
}
"#;

    /// In a file, from the top to the bottom and the other way: a correction does not move the others.
    #[test]
    fn several_timelines_of_a_file_are_corrected() {
        let first = "0s lead\n    > 0s create 1\n    > 0s create 2\n    > 0s create 3\n1s start 1 2\n2s wait\n    \
                     > 2s says \"C:\\\"\n";
        let corrections = [
            (3, 5, FIRST, first),
            (22, 16, SECOND, "0s lead\n    > 0s create 1\n"),
            (25, 5, SECOND, "0s lead\n    > 0s create 2\n    > 0s create 3\n"),
        ];
        for (name, order) in [("down", [0, 1, 2]), ("up", [2, 1, 0]), ("across", [1, 2, 0])] {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("blessed-{name}.rs"));
            fs::write(&path, SOURCE).unwrap();
            for at in order {
                let (line, column, timeline, heard) = corrections[at];
                assert_eq!(bless_in(&path, line, column, timeline, heard), Ok(()));
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), BLESSED, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_corrected_stays() {
        let mut source = Source { text: SOURCE.to_owned(), corrections: BTreeMap::new() };
        let heard = "0s lead\n    > 0s create 1\n";
        // The file was edited, the timeline is not a plain literal, the place is behind the end.
        for (line, column, timeline) in
            [(22, 16, FIRST), (3, 5, SECOND), (21, 5, "0s lead\n"), (99, 5, SECOND)]
        {
            let refused = source.correct(line, column, timeline, heard).unwrap_err();
            assert!(refused.starts_with("the call does not contain its timeline"), "{refused}");
        }
        // One call with two outcomes.
        assert_eq!(source.correct(25, 5, SECOND, heard), Ok(()));
        assert_eq!(source.correct(25, 5, SECOND, heard), Ok(()));
        let other = "0s lead\n    > 0s create 2\n";
        assert!(source.correct(25, 5, SECOND, other).unwrap_err().contains("several times"));
        assert!(source.corrected().contains("create 1\n") && !source.corrected().contains("create 3"));
    }

    #[test]
    fn what_came_as_expected_is_not_touched() {
        let timeline =
            "\n  0s lead\n      > 0s a\n\n  # One.\n      > 0s b\n      > 0s c\n  # Two.\n  1s wait\n  ";
        let heard = "0s lead\n    > 0s a\n    > 0s b\n    > 0s c\n1s wait\n";
        assert_eq!(merged(timeline, heard), timeline);
        // One more, one less, one changed.
        let more = merged(timeline, &heard.replace("    > 0s c\n", "    > 0s x\n    > 0s c\n"));
        assert_eq!(more, timeline.replace("      > 0s c\n", "      > 0s x\n      > 0s c\n"));
        let less = merged(timeline, &heard.replace("    > 0s b\n", ""));
        assert_eq!(less, timeline.replace("      > 0s b\n", ""));
        let changed = merged(timeline, &heard.replace("> 0s b", "> 0s x"));
        assert_eq!(changed, timeline.replace("> 0s b", "> 0s x"));
    }

    /// The compiler's line and column lead to the literal of a call in this file.
    #[test]
    fn the_place_of_a_call_is_the_compilers() {
        #[track_caller]
        fn found(_: [u8; 1], timeline: &str) -> (Range<usize>, Source) {
            let caller = Location::caller();
            let text = fs::read_to_string(path(caller)).unwrap();
            let place = literal(&text, caller.line(), caller.column(), &escaped(timeline));
            (place.expect("the literal"), Source { text, corrections: BTreeMap::new() })
        }
        let (place, source) = found(
            [(b'(' + 1) - 1],
            "
            0s lead
            ",
        );
        assert_eq!(&source.text[place], "\n            0s lead\n            ");
    }

    /// A timeline without its output becomes what `check` accepts.
    #[test]
    fn a_blessed_timeline_passes() {
        let events = "
        0s lead
        1s start 1 2
        2s gone 2
        3s lost 2 deleted
        ";
        let blessed = merged(events, &run(spec(2), events));
        assert!(
            blessed.contains("        2s gone 2\n            > 2s ask SPARK why 2 was lost"),
            "{blessed}"
        );
        check(spec(2), &blessed);
    }
}
