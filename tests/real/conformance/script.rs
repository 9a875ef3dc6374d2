//! A scenario file: requests, and under each the API server's answer.
//!
//! ```text
//! == a pod without a node goes at once
//! > POST pods {"metadata": {"name": "a"}, "spec": $spec}
//! DELETE pods/a {"preconditions": {"uid": "$uid-1"}}
//! = 200 Pod a uid-1 rv-1
//! ```
//!
//! `==` begins a scenario, in a namespace of its own. A step is one line; `>` before it means that only its success
//! matters. The indented lines below belong to it: more of the body, `show` with additional fields of objects to show,
//! `differs` with the name of an exception. Lines with `=` are the answer; recording writes those and keeps the rest.
//!
//! Steps are requests; `PATCH path merge body` names its content type, and so may any other. `WATCH w path` begins a
//! watch, `READ w 2` reads two events and `READ w end` the rest; `WAIT ms` waits; `SETTLE pods` waits until the
//! server's cache of pods has caught up; `COMPACT` makes the server drop its history.

use std::fs;
use std::path::PathBuf;

use crate::support::root;

pub struct Script {
    pub name: String,
    pub scenarios: Vec<Scenario>,
    path: PathBuf,
    text: String,
}

pub struct Scenario {
    pub name: String,
    pub steps: Vec<Step>,
}

#[derive(Default)]
pub struct Step {
    /// The line in the file, counted from 1.
    pub line: usize,
    /// It has to succeed, and its answer is not shown.
    pub setup: bool,
    pub verb: String,
    /// A path, or another argument of the verb.
    pub target: String,
    /// The rest: content type and body, or a number of events.
    pub rest: String,
    pub shown: Vec<String>,
    pub differs: Option<String>,
    pub expected: Vec<String>,
    /// The line of the file that the answer precedes.
    answer_at: usize,
}

/// All scenario files, ordered by name.
pub fn all() -> Vec<Script> {
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("tests/fixtures/conformance"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    paths.into_iter().map(Script::read).collect()
}

impl Script {
    fn read(path: PathBuf) -> Script {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let mut scenarios: Vec<Scenario> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let nowhere = format!("{}:{}: this belongs to something", path.display(), at + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix("== ") {
                scenarios.push(Scenario { name: name.to_owned(), steps: Vec::new() });
                continue;
            }
            let steps = &mut scenarios.last_mut().expect(&nowhere).steps;
            if let Some(answer) = line.strip_prefix("= ") {
                steps.last_mut().expect(&nowhere).expected.push(answer.to_owned());
            } else if let Some(more) = line.strip_prefix("  ") {
                let step = steps.last_mut().expect(&nowhere);
                step.answer_at = at + 1;
                match more.split_once(' ') {
                    Some(("show", pointers)) => step.shown.extend(pointers.split(' ').map(str::to_owned)),
                    Some(("differs", exception)) => step.differs = Some(exception.to_owned()),
                    Some(_) | None => step.rest = format!("{} {}", step.rest, more.trim()),
                }
            } else {
                steps.push(Step::read(line, at));
            }
        }
        Script { name, scenarios, path, text }
    }

    /// Writes the next of these answers, one for each step, into the file.
    pub fn record(&self, answers: &mut impl Iterator<Item = Vec<String>>) {
        let steps = self.scenarios.iter().flat_map(|scenario| &scenario.steps);
        let mut text = String::new();
        let mut answers = steps.zip(answers).peekable();
        let mut answer = |before: usize, text: &mut String| {
            if let Some((_, lines)) = answers.next_if(|(step, _)| step.answer_at == before) {
                lines.iter().for_each(|line| text.push_str(&format!("= {line}\n")));
            }
        };
        for (at, line) in self.text.lines().enumerate() {
            answer(at, &mut text);
            if !line.starts_with("= ") {
                text.push_str(line);
                text.push('\n');
            }
        }
        answer(self.text.lines().count(), &mut text);
        fs::write(&self.path, text).unwrap();
    }
}

impl Scenario {
    /// Does it compact the server's history?
    pub fn compacts(&self) -> bool {
        self.steps.iter().any(|step| step.verb == "COMPACT")
    }
}

impl Step {
    fn read(line: &str, at: usize) -> Step {
        let (setup, request) = line.strip_prefix("> ").map_or((false, line), |request| (true, request));
        let mut words = request.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (verb, target, rest) = (word(), word(), word());
        Step { line: at + 1, setup, verb, target, rest, answer_at: at + 1, ..Step::default() }
    }

    /// The text of the step in the file.
    pub fn text(&self) -> String {
        format!("{} {} {}", self.verb, self.target, self.rest.trim()).trim().to_owned()
    }
}
