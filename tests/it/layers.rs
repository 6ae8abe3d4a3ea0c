//! Who may use whom: every `crate::` path of the sources is held against the table in the crate's own
//! documentation, in `src/lib.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What a module may use besides itself.
#[derive(Debug, Eq, PartialEq)]
enum Allowed {
    Only(BTreeSet<String>),
    /// All but these.
    AllBut(BTreeSet<String>),
}

type Table = BTreeMap<String, Allowed>;

/// What every module may use whose row does not say "nothing" or "only".
const VOCABULARY: [&str; 4] = ["der", "pki", "metrics", "health"];

fn library() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap()
}

/// Reads the rows of the form ``//! | [`module`] | what for | what it may use |``.
fn table(library: &str) -> Table {
    let rows = library.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    rows.map(|row| {
        let (module, rest) = row.split_once("`] | ").expect("a module and its purpose");
        let cell = rest.trim_end().trim_end_matches('|').rsplit('|').next().expect("what it may use").trim();
        (module.to_owned(), allowed(cell))
    })
    .collect()
}

fn allowed(cell: &str) -> Allowed {
    let list = |text: &str| text.split(',').map(|name| name.trim().to_owned()).collect();
    if let Some(others) = cell.strip_prefix("everything but ") {
        return Allowed::AllBut(list(others));
    }
    if let Some(only) = cell.strip_suffix(" only") {
        return Allowed::Only(list(only));
    }
    let named = match cell {
        "nothing" => return Allowed::Only(BTreeSet::new()),
        "–" => BTreeSet::new(),
        _ => list(cell),
    };
    Allowed::Only(named.into_iter().chain(VOCABULARY.map(str::to_owned)).collect())
}

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
    if file.file_stem().is_some_and(|stem| stem == "testing" || stem.to_str().unwrap().ends_with("tests")) {
        return String::new();
    }
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules behind each `crate::`, those of a group in braces too.
fn used(code: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let first = |text: &str| text.trim_start().chars().take_while(|c| is_word(*c)).collect::<String>();
    let mut found = BTreeSet::new();
    for (at, root) in code.match_indices("crate::") {
        let rest = &code[at + root.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(first(rest));
            continue;
        };
        // An item begins after the group's own brace and after each comma that no inner brace encloses.
        let (mut depth, mut begins) = (0_i32, true);
        for (place, character) in group.char_indices() {
            if begins {
                found.insert(first(&group[place..]));
            }
            begins = character == ',' && depth == 0;
            depth += i32::from(character == '{') - i32::from(character == '}');
            if depth < 0 {
                break;
            }
        }
    }
    found.remove("");
    found
}

fn may_use(table: &Table, module: &str, other: &str) -> bool {
    module == other
        || match table.get(module) {
            Some(Allowed::Only(those)) => those.contains(other),
            Some(Allowed::AllBut(those)) => !those.contains(other),
            None => false,
        }
}

#[test]
fn no_module_uses_another_that_it_should_not_know() {
    let table = table(&library());
    let mut wrong = Vec::new();
    for file in sources() {
        let module = module(&file);
        // These two stand above the modules.
        if module == "lib" || module == "main" {
            continue;
        }
        let used = used(&code(&file));
        wrong.extend(used.iter().filter(|other| !may_use(&table, &module, other)).map(|other| {
            format!("{} uses {other}, which the table in src/lib.rs does not allow to {module}", file.display())
        }));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_crates_own_map_names_every_module_and_no_other() {
    let library = library();
    let modules =
        library.lines().filter_map(|line| line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")));
    let modules: BTreeSet<String> = modules.map(|rest| rest.trim_end_matches(';').to_owned()).collect();
    let table = table(&library);
    assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), modules);
    for (module, allowed) in &table {
        let (Allowed::Only(those) | Allowed::AllBut(those)) = allowed;
        assert!(those.is_subset(&modules), "the row of {module} names what is no module: {those:?}");
    }
}

#[test]
fn nothing_is_used_by_what_it_uses() {
    let table = table(&library());
    for (module, allowed) in &table {
        let Allowed::Only(those) = allowed else { continue };
        for other in those {
            assert!(!may_use(&table, other, module), "{module} and {other} may use each other");
        }
    }
}

#[test]
fn groups_and_single_paths_are_read() {
    let code = "use crate::pki::{Serial, Time};\nuse crate::{db, index::{Index, View}, sign};\nuse std::io::{self, Write};\nlet x = crate::ocsp::y();";
    assert_eq!(used(code), ["db", "index", "ocsp", "pki", "sign"].map(str::to_owned).into());
    let library = "//! | [`a`] | x | nothing |\n//! | [`b`] | y | a, c |\n//! | [`d`] | z | everything but b |\n";
    let table = table(library);
    assert!(may_use(&table, "b", "pki") && may_use(&table, "b", "c") && !may_use(&table, "b", "d"));
    assert!(!may_use(&table, "a", "pki") && may_use(&table, "d", "a") && !may_use(&table, "d", "b"));
}
