//! From paths to fleets: directories to files, files to documents, documents to types, and finally the rules that types
//! cannot express.
//!
//! All files are read before errors are reported: one bad document does not hide another. Each step is bounded:
//! [`FILES_MAX`] files of [`FILE_BYTES_MAX`], [`DOCUMENTS_MAX`] documents in total, and for each document the reader's
//! budget ([`parse`]).

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use super::class::{ClassConfig, ExecutorFleetClass};
use super::schema::RENAMED;
use super::{ExecutorFleet, FleetConfig, Problem, Renamed, rules};

pub const FILES_MAX: usize = 1_000;
pub const FILE_BYTES_MAX: u64 = 1 << 20;
pub const DOCUMENTS_MAX: usize = 1_000;

/// Maximum size of one document with expanded aliases: 4 MiB of text, in some 50,000 values.
pub(super) const TEXT_BYTES_MAX: usize = 4 << 20;
pub(super) const NODES_MAX: usize = 50_000;
const ALIASES_MAX: usize = 1_000;
pub(super) const DEPTH_MAX: usize = 48;

/// What is in files.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    pub fleets: Vec<FleetConfig>,
    pub classes: Vec<ClassConfig>,
}

/// The fleets and classes in these files, and in the `*.yaml`, `*.yml` and `*.json` of these directories, in order; or all errors.
/// Never both: a fleet that is missing because its document is invalid must not look like one that was removed.
pub fn load(paths: &[PathBuf]) -> Result<Documents, Vec<Problem>> {
    let (files, mut problems) = files(paths);
    let mut documents = Documents::default();
    for file in files {
        if let Err(problem) = load_file(&file, &mut documents, &mut problems) {
            problems.push(problem);
        }
    }
    let Documents { fleets, classes } = &mut documents;
    for config in &mut *fleets {
        problems.extend(rules::apply(config));
    }
    problems.extend(duplicates(fleets));
    problems.extend(duplicate_classes(classes));
    problems.extend(rules::sharing(fleets));
    if problems.is_empty() { Ok(documents) } else { Err(problems) }
}

/// Adds the documents and problems of a file; an error is about the file itself.
fn load_file(file: &Path, documents: &mut Documents, problems: &mut Vec<Problem>) -> Result<(), Problem> {
    let Documents { fleets, classes } = documents;
    let bytes = read(file).map_err(|why| Problem::new(file.to_owned(), why))?;
    let text = str::from_utf8(&bytes).map_err(|_| Problem::new(file.to_owned(), "is not UTF-8 text"))?;
    let pieces = split(file, text)?;
    // Each earlier document is counted in one of the two.
    if fleets.len() + classes.len() + problems.len() + pieces.len() > DOCUMENTS_MAX {
        return Err(Problem::new(file.to_owned(), format!("more than {DOCUMENTS_MAX} documents in all")));
    }
    for (document, piece) in (1..).zip(&pieces) {
        if is_class(piece.text) {
            match class(file, piece) {
                Ok(class) => classes.push(class.of_document(document)),
                Err(found) => problems.extend(found.into_iter().map(|problem| problem.of_document(document))),
            }
            continue;
        }
        match parse(file, piece) {
            Ok((fleet, old_names)) => {
                let file = file.to_owned();
                fleets.push(FleetConfig { file, document, fleet, generation: None, old_names });
            }
            Err(problem) => problems.push(problem.of_document(document)),
        }
    }
    Ok(())
}

/// The fleet of an ExecutorFleet object. Its problems have the object as their file.
pub fn from_object(object: &Value, generation: i64) -> Result<FleetConfig, Vec<Problem>> {
    let metadata = &object["metadata"];
    let name = |field: &str| metadata[field].as_str().unwrap_or_default();
    let file = PathBuf::from(format!("ExecutorFleet {}/{}", name("namespace"), name("name")));
    let mut document = json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "spec": object["spec"],
        "metadata": { "name": metadata["name"], "namespace": metadata["namespace"] },
    });
    for field in ["labels", "annotations"] {
        if metadata[field].is_object() {
            document["metadata"][field] = metadata[field].clone();
        }
    }
    if let Some(path) = crate::resource::files_only(&object["spec"]) {
        let message = "is for documents from files alone: an object could name any file of the daemon's";
        return Err(vec![Problem::new(file, message).at(&path).help("leave it out")]);
    }
    from_value(file, &document, Some(generation))
}

/// The class of an ExecutorFleetClass object. Its problems have the object as their file.
pub fn class_from_object(object: &Value, generation: i64) -> Result<ClassConfig, Vec<Problem>> {
    let file = PathBuf::from(format!(
        "ExecutorFleetClass {}",
        object["metadata"]["name"].as_str().unwrap_or_default()
    ));
    if let Some(path) = crate::resource::files_only(&object["spec"]["fleet"]) {
        let message = "is for documents from files alone: an object could name any file of the daemon's";
        let problem = Problem::new(file, message).at(&path.replacen("spec", "spec.fleet", 1));
        return Err(vec![problem.help("leave it out")]);
    }
    let document = json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "spec": object["spec"],
        "metadata": { "name": object["metadata"]["name"] },
    });
    let text = document.to_string();
    let class = class(&file, &Piece { text: &text, line_offset: 0 });
    class.map_err(|problems| problems.into_iter().map(placeless).collect()).map(|mut class| {
        class.fleet.generation = Some(generation);
        class
    })
}

/// A document that has no text of its own.
fn from_value(file: PathBuf, document: &Value, generation: Option<i64>) -> Result<FleetConfig, Vec<Problem>> {
    let text = document.to_string();
    let piece = Piece { text: &text, line_offset: 0 };
    let (fleet, old_names) = parse(&file, &piece).map_err(|problem| vec![placeless(problem)])?;
    let mut config = FleetConfig { file, document: 1, fleet, generation, old_names };
    let problems = rules::apply(&mut config);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// The line and column are those of a text that the user has not written.
fn placeless(mut problem: Problem) -> Problem {
    (problem.line, problem.column) = (None, None);
    problem
}

/// Is it an ExecutorFleetClass?
fn is_class(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Kinded {
        kind: String,
    }
    let read = || read_yaml::<Kinded>(text, &mut String::new());
    text.contains("ExecutorFleetClass") && read().is_ok_and(|it| it.kind == "ExecutorFleetClass")
}

fn class(file: &Path, piece: &Piece<'_>) -> Result<ClassConfig, Vec<Problem>> {
    let mut path = String::new();
    let document: ExecutorFleetClass = read_yaml(piece.text, &mut path)
        .map_err(|error| vec![Problem::of_yaml(file.to_owned(), &error, &path, piece.line_offset)])?;
    ClassConfig::new(file, document, |fleet| from_value(file.to_owned(), &fleet, None))
}

/// The files of these paths. Those of a directory are ordered by name; names that start with `..` are skipped, because
/// Kubernetes uses them to swap a mounted ConfigMap.
pub(super) fn files(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<Problem>) {
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        match directory(path) {
            Ok(found) if found.is_empty() => {
                let problem = Problem::new(path.clone(), "this directory has no configuration");
                problems.push(problem.help("it is read from files called *.yaml, *.yml or *.json"));
            }
            Ok(found) => files.extend(found),
            Err(error) => problems.push(Problem::new(path.clone(), format!("cannot be listed: {error}"))),
        }
    }
    if files.len() > FILES_MAX {
        let message = format!("{} files; at most {FILES_MAX}", files.len());
        problems.push(Problem::new(files.swap_remove(FILES_MAX), message));
        files.truncate(FILES_MAX);
    }
    (files, problems)
}

fn directory(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    // One more than the maximum is enough.
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let extension = Path::new(&name).extension().and_then(|extension| extension.to_str());
        let ours = matches!(extension, Some("yaml" | "yml" | "json"));
        if ours && !name.as_encoded_bytes().starts_with(b"..") {
            files.push(path.join(name));
        }
        if files.len() > FILES_MAX {
            break;
        }
    }
    files.sort();
    Ok(files)
}

/// A file's bytes. Only regular files: reading a pipe could block forever.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    policy::read_regular(path, FILE_BYTES_MAX).map_err(|error| {
        if error.kind() == ErrorKind::InvalidInput {
            "is neither a file nor a directory".to_owned()
        } else if error.kind() == ErrorKind::FileTooLarge {
            format!("has more than {FILE_BYTES_MAX} bytes")
        } else {
            format!("cannot be read: {error}")
        }
    })
}

/// One document of a file.
struct Piece<'a> {
    text: &'a str,
    /// The number of lines of the file before it.
    line_offset: u32,
}

/// The documents of a file that have content.
fn split<'a>(file: &Path, text: &'a str) -> Result<Vec<Piece<'a>>, Problem> {
    let json = file.extension().is_some_and(|extension| extension == "json");
    let pieces = if json { split_json(file, text)? } else { split_yaml(text) };
    if pieces.is_empty() {
        let problem = Problem::new(file.to_owned(), "has no document");
        return Err(problem.help("a fleet begins with `apiVersion: rollcall.dev/v1alpha1`"));
    }
    Ok(pieces)
}

/// Splits at each line `---`, as Kubernetes' own tools do. YAML does not allow that line within a document.
fn split_yaml(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut piece = Piece { text: "", line_offset: 0 };
    let (mut start, mut at) = (0, 0);
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        let marks = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marks {
            pieces.push(Piece { text: &text[start..at], ..piece });
            (start, piece.line_offset) = (at, number);
        }
        at += line.len();
    }
    pieces.push(Piece { text: &text[start..], ..piece });
    let blank = |line: &str| {
        let line = line.strip_prefix("---").unwrap_or(line).trim_start();
        line.is_empty() || line.starts_with('#')
    };
    pieces.retain(|piece| !piece.text.trim_start_matches('\u{feff}').lines().all(blank));
    pieces
}

/// Values one after another, as in JSON Lines. The pieces are parsed as YAML, which includes JSON.
fn split_json<'a>(file: &Path, text: &'a str) -> Result<Vec<Piece<'a>>, Problem> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut pieces = Vec::new();
    let mut start = 0;
    while let Some(value) = values.next() {
        if let Err(error) = value {
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or(&message);
            let mut problem = Problem::new(file.to_owned(), format!("is not JSON: {message}"));
            problem.line = u32::try_from(error.line()).ok();
            problem.column = u32::try_from(error.column()).ok();
            return Err(problem);
        }
        let end = values.byte_offset();
        start += text[start..end].len() - text[start..end].trim_start().len();
        let line_offset = (0..).zip(text[..start].split('\n')).last().map_or(0, |(lines, _)| lines);
        pieces.push(Piece { text: &text[start..end], line_offset });
        start = end;
    }
    Ok(pieces)
}

/// The fleet, and its fields that are written with their old names.
fn parse(file: &Path, piece: &Piece<'_>) -> Result<(ExecutorFleet, Vec<Renamed>), Problem> {
    let mut path = String::new();
    let fleet = read_yaml(piece.text, &mut path)
        .map_err(|error| Problem::of_yaml(file.to_owned(), &error, &path, piece.line_offset))?;
    let last = |path: &'static str| path.rsplit('.').next().unwrap_or(path);
    if !RENAMED.iter().any(|(old, _)| piece.text.contains(last(old))) {
        return Ok((fleet, Vec::new()));
    }
    // The same text was parsed a moment ago.
    let value: Value = read_yaml(piece.text, &mut path).unwrap_or_default();
    let is_there = |(old, _): &Renamed| value.pointer(&format!("/{}", old.replace('.', "/"))).is_some();
    Ok((fleet, RENAMED.into_iter().filter(is_there).collect()))
}

/// On an error, `path` is set to its location.
fn read_yaml<T: DeserializeOwned>(text: &str, path: &mut String) -> Result<T, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_aliases: ALIASES_MAX,
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_total_scalar_bytes: TEXT_BYTES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: NODES_MAX,
        },
        // YAML 1.2: `yes` and `on` are text.
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            *path = error.path().to_string();
            error.into_inner()
        })
    })
}

fn duplicate_classes(classes: &[ClassConfig]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (at, class) in classes.iter().enumerate() {
        if let Some(before) = classes[..at].iter().find(|before| before.name() == class.name()) {
            let (file, document) = (before.fleet.file.display(), before.fleet.document);
            let message = format!("the class {} is there already: {file}, document {document}", class.name());
            problems.push(class.fleet.problem("metadata.name", message).help("give it another name"));
        }
    }
    problems
}

/// A fleet is identified by its namespace and name.
fn duplicates(fleets: &[FleetConfig]) -> Vec<Problem> {
    let mut first: BTreeMap<String, &FleetConfig> = BTreeMap::new();
    let mut problems = Vec::new();
    for config in fleets {
        let key = config.key();
        if let Some(before) = first.get(&key) {
            let file = before.file.display();
            let message = format!("the fleet {key} is there already: {file}, document {}", before.document);
            problems.push(config.problem("metadata.name", message).help("give it another name"));
        } else {
            first.insert(key, config);
        }
    }
    problems
}
