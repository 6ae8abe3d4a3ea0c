//! Lists in directories: as over HTTP, held up by nothing, and never back.

use crate::crl_commands::admin;
use crate::harness::{Demo, Server, contains, jarchy, run, text, wait_until};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use tempfile::TempDir;

/// A demo that publishes into the folders called so beside it; they are not made here.
struct House {
    work: TempDir,
    dir: PathBuf,
}

impl House {
    fn new(folders: &[&str]) -> Self {
        let (work, dir) = Demo::copied();
        let config = dir.join("jarchy.toml");
        let mut on =
            fs::read_to_string(&config).unwrap().replace("admin = \"off\"", "admin = \"127.0.0.1:0\"\ngrace = \"0s\"");
        for folder in folders {
            let folder = work.path().join(folder);
            on += &format!("\n[[issuer.crl.publish]]\ndirectory = \"{}\"\n", folder.display());
        }
        fs::write(&config, on).unwrap();
        Self { work, dir }
    }

    fn config(&self) -> String {
        text(&self.dir.join("jarchy.toml")).to_owned()
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.work.path().join("log")
    }

    fn start(&self) -> Server {
        Server::start(&["serve", "--config", &self.config(), "--listen", "127.0.0.1:0"], &self.log())
    }

    fn revoke(&self, name: &str) {
        let certificate = self.dir.join(format!("{name}.pem"));
        jarchy(&["revoke", text(&certificate), "--reason", "superseded", "--config", &self.config()]).ok("revoke");
    }
}

fn served(house: &House, server: &Server, path: &str) -> Result<Vec<u8>, String> {
    let file = house.folder("served");
    let said = run("curl", &["-fsS", "-o", text(&file), &format!("{}{path}", server.url)]);
    if said.status.success() { Ok(fs::read(file).unwrap()) } else { Err(said.err) }
}

pub(crate) fn number(list: &Path) -> u64 {
    let said = jarchy(&["crl", "show", text(list), "--json"]).ok("show").out;
    let shown: serde_json::Value = serde_json::from_str(&said).unwrap();
    shown["number"].as_str().unwrap().parse().unwrap()
}

/// Whether the folder shows the very lists that are served, and the ones that the delta builds on.
fn is_in_step(house: &House, server: &Server, folder: &Path) -> Result<(), String> {
    for name in ["demo.crl", "demo-delta.crl"] {
        let here = fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"))?;
        if here != served(house, server, &format!("/crl/{name}"))? {
            return Err(format!("{name} is another"));
        }
    }
    let shown = jarchy(&["crl", "show", text(&folder.join("demo-delta.crl")), "--json"]).out;
    let delta: serde_json::Value = serde_json::from_str(&shown).map_err(|error| error.to_string())?;
    let base = folder.join("demo").join(format!("{}.crl", delta["base"].as_str().unwrap_or_default()));
    let numbered = folder.join("demo").join(format!("{}.crl", number(&folder.join("demo.crl"))));
    if base.is_file() && fs::read(numbered).is_ok_and(|list| list == fs::read(folder.join("demo.crl")).unwrap()) {
        return Ok(());
    }
    Err(format!("{} or the current one is missing", base.display()))
}

#[test]
fn a_directory_shows_the_same_lists_as_http_whole_and_readable_by_all() {
    let house = House::new(&["www"]);
    let www = house.folder("www");
    fs::create_dir(&www).unwrap();
    let server = house.start();
    wait_until("the first lists", || is_in_step(&house, &server, &www));
    let first = number(&www.join("demo.crl"));
    house.revoke("good");
    wait_until("the next lists", || {
        is_in_step(&house, &server, &www)?;
        if number(&www.join("demo.crl")) > first { Ok(()) } else { Err("still the first".to_owned()) }
    });
    for name in ["demo.crl", "demo-delta.crl", &format!("demo/{first}.crl")] {
        let mode = fs::metadata(www.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{name}");
    }
    let names: Vec<_> = fs::read_dir(&www).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "two lists, the numbered ones and the lock: {names:?}");
    let metrics = run("curl", &["-fsS", &format!("http://{}/metrics", admin(&server))]).ok("metrics").out;
    let label = "issuer=\"demo\",destination=";
    for part in [
        format!("jarchy_crl_destination_lag_seconds{{{label}"),
        format!("jarchy_crl_destination_number{{{label}"),
        format!("jarchy_crl_destination_failures_total{{{label}"),
    ] {
        contains(&metrics, &part).unwrap();
    }
    server.stop();
    // Another start finds its own lists there, and goes on.
    let server = house.start();
    house.revoke("renewal");
    wait_until("lists after a restart", || is_in_step(&house, &server, &www));
}

#[test]
fn promise_8_a_directory_that_is_away_holds_up_neither_http_nor_another_and_is_filled_when_it_is_back() {
    let house = House::new(&["away", "www"]);
    let (away, www) = (house.folder("away"), house.folder("www"));
    fs::create_dir(&www).unwrap();
    let server = house.start();
    house.revoke("good");
    wait_until("the other directory", || is_in_step(&house, &server, &www));
    let health = || run("curl", &["-sS", &format!("http://{}/health/ready", admin(&server))]).out;
    wait_until("health tells of it", || {
        let health = health();
        contains(&health, "\"degraded\"")?;
        contains(&health, "away")?;
        contains(&health, "\"status\": \"ready\"")
    });
    fs::create_dir(&away).unwrap();
    wait_until("it is back", || is_in_step(&house, &server, &away));
    wait_until("health is well again", || {
        let health = health();
        if health.contains("degraded") { Err(health) } else { Ok(()) }
    });
}

#[test]
fn promise_8_a_directory_that_hangs_holds_up_nothing_not_even_the_end() {
    let house = House::new(&["hung", "www"]);
    let (hung, www) = (house.folder("hung"), house.folder("www"));
    fs::create_dir(&hung).unwrap();
    fs::create_dir(&www).unwrap();
    // Who opens it waits until somebody writes, which nobody does.
    run("mkfifo", &[text(&hung.join("demo.crl"))]).ok("mkfifo");
    let server = house.start();
    house.revoke("good");
    wait_until("the other directory", || is_in_step(&house, &server, &www));
    server.stop();
}

#[test]
fn sec_24_what_is_not_our_list_is_left_alone_and_said() {
    let house = House::new(&["www"]);
    let www = house.folder("www");
    fs::create_dir(&www).unwrap();
    fs::write(www.join("demo.crl"), "somebody's notes").unwrap();
    let server = house.start();
    wait_until("it is said", || contains(&server.log(), "is no CRL"));
    assert_eq!(fs::read(www.join("demo.crl")).unwrap(), b"somebody's notes");
    fs::remove_file(www.join("demo.crl")).unwrap();
    wait_until("its place is free", || is_in_step(&house, &server, &www));
}

#[test]
fn promise_5_a_higher_number_in_a_directory_stops_publication_until_it_is_adopted() {
    let house = House::new(&["www"]);
    let www = house.folder("www");
    fs::create_dir(&www).unwrap();
    let server = house.start();
    house.revoke("good");
    wait_until("lists", || is_in_step(&house, &server, &www));
    server.stop();
    let (list, known) = (www.join("demo.crl"), number(&www.join("demo.crl")));
    // The state store is lost, and with it all that it knew of numbers.
    for name in fs::read_dir(&house.dir).unwrap().map(|entry| entry.unwrap().path()) {
        if name.file_name().unwrap().to_str().unwrap().starts_with("jarchy-state") {
            if name.is_dir() { fs::remove_dir_all(&name).unwrap() } else { fs::remove_file(&name).unwrap() }
        }
    }
    fs::write(house.log(), "").unwrap();
    let server = thread::scope(|scope| {
        let starting = scope.spawn(|| house.start());
        let log = || fs::read_to_string(house.log()).unwrap();
        wait_until("it stops", || contains(&log(), "jarchy crl adopt demo"));
        assert_eq!(number(&list), known);
        let config = house.config();
        let adopt = |file: &Path, extra: &[&str]| {
            jarchy(&[&["crl", "adopt", "demo", text(file), "--config", &config], extra].concat())
        };
        let stranger = house.dir.join("ca.pem");
        assert!(!adopt(&stranger, &[]).status.success());
        let adopted = jarchy(&["crl", "adopt", "demo", "--config", &config]).ok("adopt");
        contains(&adopted.out, &format!("above {known}")).unwrap();
        contains(&adopt(&list, &[]).ok("adopt again").out, "nothing to do").unwrap();
        starting.join().unwrap()
    });
    wait_until("it goes on", || is_in_step(&house, &server, &www));
    assert!(number(&list) > known);
}
