//! Who may use whom: every `crate::` path of the sources is held against one table.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What every module below the first four may use.
const VOCABULARY: [&str; 4] = ["der", "pki", "metrics", "health"];

/// Each module of the crate and what it may use besides [`VOCABULARY`]; a path allows all below it.
const MAY_USE: [(&str, &[&str]); 20] = [
    ("der", &[]),
    ("metrics", &[]),
    ("health", &[]),
    ("telemetry", &[]),
    ("pki", &["der"]),
    ("db", &[]),
    ("registry", &["db", "sign::verify"]),
    ("source", &["db", "registry"]),
    ("state", &["db"]),
    ("index", &[]),
    ("feed", &["source", "index", "state"]),
    ("sign", &[]),
    ("ocsp", &["index", "sign"]),
    ("crl", &["db", "index", "sign", "state"]),
    ("http", &["ocsp", "crl"]),
    ("load", &["ocsp"]),
    ("config", &["telemetry"]),
    (
        "app",
        &["config", "crl", "db", "feed", "http", "index", "ocsp", "registry", "sign", "source", "state", "telemetry"],
    ),
    ("cli", &["app", "config", "registry", "source", "load", "sign", "ocsp", "crl", "telemetry"]),
    // The binary only hands the command line over.
    ("main", &["cli"]),
];
/// Those for which [`VOCABULARY`] does not hold.
const LEAVES: [&str; 6] = ["der", "metrics", "health", "telemetry", "pki", "main"];

fn sources() -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                files.push(entry);
            }
        }
    }
    files
}

/// The module of the crate's top level that a source file belongs to.
fn module(file: &Path) -> String {
    let inside = file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The code of a file without comments and without its tests, which may use what they like.
fn code(file: &Path) -> String {
    if file.file_stem().is_some_and(|stem| stem.to_str().unwrap().ends_with("tests")) {
        return String::new();
    }
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The paths behind each `crate::` (in the binary: `jarchy::`), groups in braces taken apart one level deep.
fn paths(code: &str, root: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    for (at, _) in code.match_indices(root) {
        // Not the tail of another path or word.
        if code[..at].chars().next_back().is_some_and(is_path) {
            continue;
        }
        let rest = &code[at + root.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            for part in group.split(',') {
                if depth == 0 {
                    found.push(part.trim().chars().take_while(|c| is_path(*c)).collect());
                }
                depth += part.matches('{').count();
                if part.matches('}').count() > depth {
                    break;
                }
                depth -= part.matches('}').count();
            }
        } else {
            found.push(rest.chars().take_while(|c| is_path(*c)).collect());
        }
    }
    found
}

fn is_allowed(module: &str, path: &str) -> bool {
    let Some((_, own)) = MAY_USE.iter().find(|(name, _)| *name == module) else { return false };
    let vocabulary: &[&str] = if LEAVES.contains(&module) { &[] } else { &VOCABULARY };
    let within =
        |allowed: &str| path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    within(module) || own.iter().chain(vocabulary).any(|allowed| within(allowed))
}

#[test]
fn no_module_uses_another_that_it_should_not_know() {
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources() {
        let module = module(&file);
        if module == "lib" {
            continue;
        }
        let root = if module == "main" { "jarchy::" } else { "crate::" };
        for path in paths(&code(&file), root).into_iter().filter(|path| !is_allowed(&module, path)) {
            wrong.entry(file.display().to_string()).or_default().push(path);
        }
    }
    assert!(wrong.is_empty(), "against the table in {}: {wrong:#?}", file!());
}

#[test]
fn the_crates_own_map_names_every_module_and_no_other() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let modules: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")))
        .map(|rest| rest.trim_end_matches(';'))
        .collect();
    let map: String = text.lines().filter(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
    for module in &modules {
        assert!(map.contains(&format!("`{module}`")), "the map in src/lib.rs does not name `{module}`");
        assert!(MAY_USE.iter().any(|(name, _)| name == module), "{module} is not in the table of {}", file!());
    }
    // Links of the form [`module`] are all modules that exist.
    for link in map.split("[`").skip(1).filter_map(|rest| rest.split("`]").next()) {
        assert!(modules.contains(&link), "the map in src/lib.rs names `{link}`, which is no module");
    }
}

#[test]
fn groups_and_single_paths_are_read() {
    let code =
        "use crate::pki::{Serial, Time};\nuse crate::{db, index::{Index, View}, sign};\nlet x = crate::ocsp::y();";
    assert_eq!(paths(code, "crate::"), ["pki::", "db", "index::", "sign", "ocsp::y"]);
    assert!(is_allowed("registry", "sign::verify::issued_by") && !is_allowed("registry", "sign::Signer"));
    assert!(is_allowed("ocsp", "pki::") && !is_allowed("der", "pki::"));
}
