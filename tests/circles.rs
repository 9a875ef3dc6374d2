//! Modules of a crate depend on each other in one direction: a reader can begin at the bottom.
//!
//! Reads the `use` lines, as rustfmt formats them. A module and its own submodules count as one if they use each other;
//! tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::support::root;

/// The simulator and the cluster in memory are not included yet: a world and its parts depend on each other there.
const CRATES: [&str; 7] = [
    "host/fleet",
    "host/cluster",
    "host/policy",
    "host",
    "policies/sdk",
    "policies/spark-loss",
    "policies/spark-roll",
];

type Name = Vec<String>;

#[test]
fn no_module_depends_on_itself_by_way_of_others() {
    for path in CRATES {
        let mut sources = BTreeMap::new();
        read(&root().join(path).join("src"), &[], &mut sources);
        assert!(!sources.is_empty(), "{path} has no sources");
        let uses = sources.iter().map(|(name, text)| (name, used(name, text, &sources))).collect();
        assert_eq!(circle(&uses), None, "{path}: move what both need to a module of its own");
    }
}

fn read(folder: &Path, parent: &[String], into: &mut BTreeMap<Name, String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        let name = match &*stem {
            "lib" | "main" | "mod" => parent.to_vec(),
            "tests" => continue,
            _ => [parent, &[stem]].concat(),
        };
        if path.is_dir() {
            read(&path, &name, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !name.is_empty() {
            let text = fs::read_to_string(&path).expect("a source");
            into.insert(name, text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned());
        }
    }
}

/// The modules of the same crate that a module's `use` lines name.
fn used(name: &Name, text: &str, all: &BTreeMap<Name, String>) -> BTreeSet<Name> {
    let mut found = BTreeSet::new();
    let statements = text.split("\n").filter_map(|line| {
        let start = line
            .find("use ")
            .filter(|at| matches!(line[..*at].trim(), "" | "pub" | "pub(crate)" | "pub(super)"))?;
        let from = line.as_ptr() as usize - text.as_ptr() as usize + start + "use ".len();
        text[from..].split_once(';').map(|(statement, _)| statement)
    });
    for statement in statements {
        // Each path of a group begins with the part before the group.
        let (head, group) = statement.split_once('{').unwrap_or((statement, ""));
        let paths: Vec<String> = match group {
            "" => vec![head.to_owned()],
            group => group.trim_end_matches('}').split(',').map(|part| format!("{head}{part}")).collect(),
        };
        for path in paths {
            let mut base = name.clone();
            let mut rest: Name = path.split("::").map(|part| part.trim().to_owned()).collect();
            match &*rest[0] {
                "crate" => base.clear(),
                "super" => drop(base.pop()),
                "self" => {}
                _ => continue,
            }
            rest.remove(0);
            base.append(&mut rest);
            while !base.is_empty() && !all.contains_key(&base) {
                base.pop();
            }
            if !base.is_empty() && !base.starts_with(name) && !name.starts_with(&base) {
                found.insert(base);
            }
        }
    }
    found
}

/// The modules of circles, if there are any.
fn circle(uses: &BTreeMap<&Name, BTreeSet<Name>>) -> Option<Vec<String>> {
    let mut left: BTreeMap<&Name, BTreeSet<&Name>> =
        uses.iter().map(|(name, used)| (*name, used.iter().collect())).collect();
    // A module that uses none of the remaining ones is at the bottom.
    loop {
        let bottom: Vec<&Name> = left
            .iter()
            .filter(|(_, used)| used.iter().all(|name| !left.contains_key(*name)))
            .map(|(name, _)| *name)
            .collect();
        if bottom.is_empty() {
            break;
        }
        bottom.iter().for_each(|name| drop(left.remove(*name)));
    }
    // A module that no other uses is at the top.
    loop {
        let used: BTreeSet<&Name> = left.values().flatten().copied().collect();
        let before = left.len();
        left.retain(|name, _| used.contains(*name));
        if left.len() == before {
            break;
        }
    }
    (!left.is_empty()).then(|| left.keys().map(|name| name.join("::")).collect())
}

#[test]
fn a_circle_is_found() {
    let source = |name: &str, text: &str| (vec![name.to_owned()], text.to_owned());
    let sources = BTreeMap::from([
        source("a", "pub use crate::b::B;\n"),
        source("b", "use crate::{x::Y,\n    c};\n"),
        source("c", "use super::a::{\n    A,\n};\n"),
        source("d", "//! use crate::a;\nuse crate::a;\n"),
    ]);
    let uses = sources.iter().map(|(name, text)| (name, used(name, text, &sources))).collect();
    assert_eq!(circle(&uses), Some(["a", "b", "c"].map(str::to_owned).to_vec()));
    let uses = sources.iter().skip(1).map(|(name, text)| (name, used(name, text, &sources))).collect();
    assert_eq!(circle(&uses), None);
}
