//! House rules that no compiler checks: what the tree, the files and the dependencies look like. Each test also counts
//! what it looked at, so that a rule cannot pass by looking at nothing.

#![allow(clippy::disallowed_methods, reason = "the files of the repository are what is tested here")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};

/// Everything visible at the top of the repository.
const TOP_LEVEL: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "broker",
    "client",
    "config",
    "loadgen",
    "storage",
    "wire",
];

/// The only crates that may name glommio or contain unsafe code.
const ADAPTERS: [&str; 2] = ["storage/crates/runtime-glommio", "storage/crates/runtime-compio"];

/// Above this a file holds more than one idea. Tests below the code do not count.
const PRODUCTION_LINES_MAX: usize = 900;

// Words that this file must be able to talk about without containing them.
const UNSAFE: &str = concat!("un", "safe");
const GLOMMIO_PATH: &str = concat!("glom", "mio::");
const UNFINISHED: [&str; 4] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("#[ig", "nore")];
const HOMES: [&str; 4] = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];

#[test]
fn the_top_level_is_the_fixed_list() {
    let ignored = fs::read_to_string(root().join(".gitignore")).expect(".gitignore is committed");
    let is_ignored = |name: &str| ignored.lines().any(|line| line.trim_matches('/') == name);
    let found: BTreeSet<String> = fs::read_dir(root())
        .expect("the repository is readable")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("names are UTF-8"))
        .filter(|name| !name.starts_with('.') && !is_ignored(name))
        .collect();
    let expected: BTreeSet<String> = TOP_LEVEL.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(found, expected);
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let sources = sources();
    at_least(50, sources.len());
    let silent = sources.iter().filter(|source| !source.text.starts_with("//! "));
    none(silent.map(|source| format!("{} does not open with `//! `", source.path)));
}

#[test]
fn no_file_is_a_drawer_for_odds_and_ends() {
    let files = files();
    at_least(80, files.len());
    none(files.into_iter().filter(|path| {
        let stem = Path::new(path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        ["util", "utils", "helper", "helpers", "misc", "common"].contains(&stem)
    }));
}

#[test]
fn production_files_stay_short() {
    let sources = sources();
    let production = sources.iter().filter(|source| source.is_production());
    at_least(40, production.clone().count());
    none(production.filter_map(|source| {
        let end = source.text.find("\n#[cfg(test)]\nmod ").unwrap_or(source.text.len());
        let lines = source.text[..end].lines().count();
        (lines > PRODUCTION_LINES_MAX).then(|| format!("{}: {lines} lines", source.path))
    }));
}

#[test]
fn nothing_is_left_unfinished() {
    let sources = sources();
    at_least(50, sources.len());
    let marked =
        sources.iter().flat_map(Source::lines).filter(|(_, line)| UNFINISHED.iter().any(|word| line.contains(word)));
    none(marked.map(|(place, line)| format!("{place}: {line}")));
}

#[test]
fn only_adapters_name_the_runtime_below_or_leave_safe_code() {
    let sources = sources();
    let (adapters, others): (Vec<_>, Vec<_>) =
        sources.iter().partition(|source| ADAPTERS.iter().any(|adapter| source.path.starts_with(adapter)));
    at_least(5, adapters.len());
    at_least(45, others.len());
    let outside = others.into_iter().flat_map(Source::lines).filter(|(_, line)| {
        let code = line.split("//").next().unwrap_or_default();
        let leaves_safe_code = code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == UNSAFE);
        let names_runtime = code.match_indices(GLOMMIO_PATH).any(|(at, _)| !code[..at].ends_with('_'));
        leaves_safe_code || names_runtime
    });
    none(outside.map(|(place, line)| format!("{place}: {line}")));
}

#[test]
fn every_crate_forbids_unsafe_code_and_takes_the_lints() {
    let crates: Vec<String> =
        files().into_iter().filter_map(|path| Some(path.strip_suffix("/Cargo.toml")?.to_owned())).collect();
    at_least(11, crates.len());
    let mut violations = Vec::new();
    for dir in crates.iter().filter(|dir| !dir.ends_with("/fuzz")) {
        if !read(&format!("{dir}/Cargo.toml")).contains("\n[lints]\nworkspace = true\n") {
            violations.push(format!("{dir} has lints of its own"));
        }
        let roots = ["lib", "main"].map(|name| format!("{dir}/src/{name}.rs"));
        let roots: Vec<_> = roots.into_iter().filter(|path| root().join(path).exists()).collect();
        at_least(1, roots.len());
        let may = ADAPTERS.contains(&dir.as_str());
        let forbids = |path: &String| read(path).contains(&format!("#![forbid({UNSAFE}_code)]"));
        violations.extend(
            roots.iter().filter(|path| !may && !forbids(path)).map(|path| format!("{path} does not forbid it")),
        );
    }
    none(violations);
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let files = files();
    at_least(80, files.len());
    // What is not UTF-8 is a test vector.
    let texts = files.iter().filter_map(|path| Some((path, fs::read_to_string(root().join(path)).ok()?)));
    let homes = texts.filter(|(_, text)| HOMES.iter().any(|home| text.contains(home)));
    none(homes.map(|(path, _)| path));
}

#[test]
fn storage_and_wire_are_free_of_tokio() {
    let lock: toml::Table = read("Cargo.lock").parse().expect("Cargo.lock is TOML");
    let mut dependencies: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("a list of packages") {
        let name = package["name"].as_str().expect("a name");
        let list = package.get("dependencies").and_then(|list| list.as_array());
        // An entry is a name, and a version where there are several.
        let names = list.into_iter().flatten().filter_map(|entry| entry.as_str()?.split(' ').next());
        dependencies.entry(name).or_default().extend(names);
    }
    let tree_of = |root| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![root]);
        while let Some(name) = next.pop() {
            if seen.insert(name) {
                next.extend(&dependencies[name]);
            }
        }
        seen
    };
    for root in ["storage", "streambus-wire"] {
        let tree = tree_of(root);
        at_least(5, tree.len());
        assert!(!tree.contains("tokio"), "{root} depends on tokio");
    }
    assert!(tree_of("broker").contains("tokio"), "the walk would find it");
}

/// A file of Rust code.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Each line with its place: "path:number".
    fn lines(&self) -> impl Iterator<Item = (String, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (format!("{}:{}", self.path, index + 1), line))
    }

    fn is_production(&self) -> bool {
        let aside = ["tests", "fuzz", "benches", "examples"];
        !self.path.split('/').any(|part| aside.contains(&part))
    }
}

fn sources() -> Vec<Source> {
    let paths = files().into_iter().filter(|path| path.ends_with(".rs"));
    paths.map(|path| Source { text: read(&path), path }).collect()
}

/// Every file of the repository but the ignored ones, as a path from its root.
fn files() -> Vec<String> {
    let ignored = read(".gitignore");
    let ignored: BTreeSet<PathBuf> = ignored.lines().map(|line| root().join(line.trim_matches('/'))).collect();
    let mut found = Vec::new();
    let mut dirs = vec![root()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("the repository is readable") {
            let path = entry.expect("an entry").path();
            if ignored.contains(&path) || path.ends_with(".git") || path.ends_with("target") {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else {
                let path = path.strip_prefix(root()).expect("found below the root");
                found.push(path.to_str().expect("names are UTF-8").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("broker/ is in the repository").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fails with all violations at once.
fn none(violations: impl IntoIterator<Item = impl Display>) {
    let list: Vec<String> = violations.into_iter().map(|violation| violation.to_string()).collect();
    assert!(list.is_empty(), "\n{}", list.join("\n"));
}

/// A rule that looked at fewer things than there must be has not been checked.
fn at_least(floor: usize, looked_at: usize) {
    assert!(looked_at >= floor, "looked at {looked_at} only, there must be {floor}");
}
