//! Conventions of the repository: the dependency table, the map in the README, the committed policies, the size of
//! files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::root;

/// The crates of this workspace that a part may use, and external ones that it must not use.
const HOUSE: [(&str, &[&str], &[&str]); 10] = [
    ("fleet", &[], &["*"]),
    ("cluster", &["fleet"], &["wasmtime"]),
    ("policy", &["fleet"], &["kube", "k8s-openapi"]),
    ("embedded", &["fleet"], &["kube", "wasmtime", "tokio"]),
    ("lab", &["fleet"], &["kube", "wasmtime", "tokio"]),
    ("rollcall", &["cluster", "embedded", "fleet", "policy"], &[]),
    ("rollcall-policy", &[], &["wasmtime", "kube", "tokio"]),
    ("spark-roll", &["rollcall-policy"], &["*"]),
    ("spark-loss", &["rollcall-policy"], &["*"]),
    ("spot-lifetime", &["rollcall-policy"], &["*"]),
];

#[test]
fn dependencies_are_those_of_the_table() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo's metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_string();
    let house: BTreeSet<String> = packages.iter().map(name).collect();
    let table: BTreeSet<String> = HOUSE.iter().map(|(name, ..)| name.to_string()).collect();
    assert_eq!(house, table, "a new crate needs a row in the table");
    for package in packages {
        let (_, ours, never) =
            HOUSE.iter().find(|(known, ..)| *known == name(package)).expect("in the table");
        let all = package["dependencies"].as_array().expect("dependencies");
        for dependency in all.iter().filter(|dependency| dependency["kind"] != "dev") {
            let dependency = name(dependency);
            let allowed = if house.contains(&dependency) {
                ours.contains(&dependency.as_str())
            } else {
                !never.contains(&"*") && !never.contains(&dependency.as_str())
            };
            assert!(allowed, "{} must not depend on {dependency}", name(package));
        }
    }
}

/// Each threat of the security model names tests that exist.
#[test]
fn the_threat_table_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/security.md")).expect("the security model");
    let named = text.split('`').filter_map(|code| code.split_once(".rs: "));
    let mut count = 0;
    for (file, test) in named {
        let source = fs::read_to_string(root().join(format!("{file}.rs")));
        let source = source.unwrap_or_else(|error| panic!("{file}.rs: {error}"));
        assert!(source.contains(&format!("fn {test}(")), "there is no test {test} in {file}.rs");
        count += 1;
    }
    assert!(count > 20, "{count} tests");
}

/// Building the core requires neither a Kubernetes client, nor a sandbox, nor a runtime.
#[test]
fn the_core_and_its_simulator_are_light() {
    for package in ["fleet", "lab"] {
        let tree = tree(&["--edges=normal,build,dev", "--package", package]);
        for heavy in ["kube", "k8s-openapi", "wasmtime", "tokio"] {
            let found = tree.lines().find(|line| line.starts_with(heavy));
            assert_eq!(found, None, "{package} compiles {heavy}");
        }
    }
}

/// What ships has neither the simulator nor the injected bugs in it, nor policies as native code.
#[test]
fn the_product_is_without_the_lab() {
    let tree = tree(&["--edges=normal,build", "--package", "rollcall", "--format={p} {f}"]);
    let fleet: Vec<&str> = tree.lines().filter(|line| line.starts_with("fleet ")).collect();
    assert!(!fleet.is_empty());
    for line in tree.lines() {
        let package = line.split(' ').next().unwrap_or_default();
        assert!(!["lab", "rollcall-policy", "spark-roll", "spark-loss"].contains(&package), "{line}");
        assert!(!line.contains("injected-bugs"), "{line}");
    }
}

/// What a user has to compile. A new dependency is a decision: raise the number with it, and say in the manifest why it
/// is there.
#[test]
fn the_product_is_no_heavier_unnoticed() {
    const CRATES: usize = 348;
    /// Crates that are compiled in two versions, because two dependencies need different ones.
    const TWICE: [&str; 8] =
        ["base64", "cpufeatures", "getrandom", "hashbrown", "io-lifetimes", "syn", "tower-http", "winnow"];
    let tree = tree(&["--edges=normal,build", "--package=rollcall", "--format={p}"]);
    let crates: BTreeSet<String> =
        tree.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect();
    assert!(crates.len() <= CRATES, "{} crates; there were {CRATES}", crates.len());
    let mut names: Vec<&str> = crates.iter().filter_map(|line| line.split(' ').next()).collect();
    names.sort_unstable();
    let twice: BTreeSet<&str> = names.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]).collect();
    let unexpected: Vec<_> = twice.iter().filter(|name| !TWICE.contains(name)).collect();
    assert!(unexpected.is_empty(), "in several versions: {unexpected:?}");
}

/// The size of the binary as the tests build it, which stands for the size of the one that ships: that takes minutes more
/// to build.
#[test]
#[cfg(all(debug_assertions, target_os = "linux", target_arch = "x86_64"))]
fn the_binary_is_no_larger_unnoticed() {
    // Two kinds of documents, each with a schema of its own; NetworkPolicies and Services, for `doctor`.
    const MB: u64 = 187;
    let bytes = fs::metadata(env!("CARGO_BIN_EXE_rollcall")).expect("the binary").len();
    assert!(bytes <= MB * 1_000_000, "{bytes} bytes; the limit is {MB} MB");
}

/// Every dependency may be shipped under Apache-2.0 terms: each alternative names only licences of this list.
#[test]
fn licences_are_permissive() {
    const ALLOWED: [&str; 11] = [
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "Unicode-3.0",
        "Unlicense",
        "Zlib",
    ];
    let tree = tree(&["--workspace", "--edges=normal,build,dev", "--format={p}|{l}"]);
    assert!(tree.lines().count() > 300);
    // A blank line separates the members of the workspace.
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, licence) =
            line.trim_end_matches(" (*)").split_once('|').expect("a package and its licence");
        let plain = licence.replace(['(', ')'], "").replace('/', " OR ");
        let allowed =
            plain.split(" OR ").flat_map(|all| all.split(" AND ")).all(|one| ALLOWED.contains(&one.trim()));
        assert!(allowed, "{package}: {licence:?}");
    }
}

/// What cargo would compile, a package in each line.
fn tree(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--prefix=none"])
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The repository's own files.
fn files(extension: &str) -> Vec<PathBuf> {
    fn walk(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && name != ".git" {
                walk(&path, extension, found);
            } else if name.ends_with(extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), extension, &mut found);
    found
}

#[test]
fn no_source_file_is_too_long() {
    for path in files(".rs") {
        let lines = fs::read_to_string(&path).expect("text").lines().count();
        assert!(lines <= 700, "{} has {lines} lines: find the second idea in it", path.display());
    }
}

#[test]
fn nothing_is_left_to_do_later() {
    // In two parts, so that this file does not match itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("un", "implemented!")];
    for path in files(".rs").into_iter().chain(files(".wit")) {
        let text = fs::read_to_string(&path).expect("text");
        for mark in marks {
            assert!(!text.contains(mark), "{} contains {mark}", path.display());
        }
    }
}

/// Words that this project's comments were once full of. The sources of the built-in policies and the contract follow
/// when they are built again: a digest pins them.
#[test]
fn the_words_are_those_of_the_field() {
    // In two parts, so that this file does not match itself.
    let dialect = [
        concat!("who", "ever"),
        concat!("no", "body"),
        concat!("some", "body"),
        concat!("an", "ew"),
        concat!("for ", "ever"),
        concat!("what became", " of"),
    ];
    // CONTRIBUTING lists them.
    let exempt = ["policies", "wit", "CONTRIBUTING.md"].map(|name| root().join(name));
    let pinned = |path: &PathBuf| exempt.iter().any(|name| path.starts_with(name));
    let mut found = Vec::new();
    for path in
        [".rs", ".md", ".yaml"].iter().flat_map(|extension| files(extension)).filter(|path| !pinned(path))
    {
        let text = fs::read_to_string(&path).expect("text").to_lowercase();
        for (number, line) in (1..).zip(text.lines()) {
            let alone = |at: usize, word: &str| {
                let [before, after] =
                    [line[..at].chars().next_back(), line[at + word.len()..].chars().next()];
                ![before, after].into_iter().flatten().any(char::is_alphanumeric)
            };
            let words =
                dialect.iter().filter(|word| line.match_indices(**word).any(|(at, word)| alone(at, word)));
            found.extend(words.map(|word| format!("{}:{number}: {word}", path.display())));
        }
    }
    assert_eq!(found, Vec::<String>::new(), "docs/glossary.md has the words of this project");
}

#[test]
fn the_map_in_the_readme_names_every_folder() {
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    for folder in [
        "wit/",
        "policies/",
        "host/",
        "host/fleet/",
        "host/policy/",
        "host/cluster/",
        "host/embedded/",
        "host/lab/",
        "tests/",
    ] {
        assert!(root().join(folder).is_dir(), "{folder} is gone");
        let shown = folder.trim_start_matches("host/").trim_end_matches('/');
        assert!(readme.contains(&format!("{shown}/")), "{folder} is not on the map");
    }
}

#[test]
fn the_committed_policies_are_built_from_these_sources() {
    let output = Command::new(env!("CARGO_BIN_EXE_rollcall"))
        .args(["policy", "build", "policies/spark-roll", "policies/spark-loss"])
        .args(["--into", "policies/built", "--check", "--no-compile"])
        .current_dir(root())
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_chart_has_the_definitions_that_the_binary_prints() {
    let printed = Command::new(env!("CARGO_BIN_EXE_rollcall")).arg("crds").output().expect("the binary runs");
    let path = "deploy/chart/crds/rollcall.dev.yaml";
    let committed = fs::read(root().join(path)).expect("the definitions");
    assert!(printed.stdout == committed, "run: cargo run -- crds > {path}");
}

#[test]
fn the_chart_is_of_this_version_and_each_value_has_a_default_and_a_rule() {
    fn same(path: &str, schema: &Value, values: &Value) {
        let Some(properties) = schema["properties"].as_object() else { return };
        let values = values.as_object().unwrap_or_else(|| panic!("{path} is no object"));
        for name in properties.keys().filter(|name| *name != "global") {
            let path = format!("{path}.{name}");
            let value = values.get(name).unwrap_or_else(|| panic!("values.yaml has no {path}"));
            same(&path, &properties[name], value);
        }
        // It is strict on each level.
        assert_eq!(schema["additionalProperties"], false, "{path} takes any name");
    }
    let read =
        |file: &str| fs::read_to_string(root().join("deploy/chart").join(file)).expect("a file of the chart");
    let yaml = |file: &str| serde_saphyr::from_str::<Value>(&read(file)).expect("YAML");
    same("", &serde_json::from_str(&read("values.schema.json")).expect("JSON"), &yaml("values.yaml"));
    let chart = yaml("Chart.yaml");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((&chart["version"], &chart["appVersion"]), (&version.into(), &version.into()));
}
