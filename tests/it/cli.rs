//! The command line from outside: every fault gets a message that helps and a status that is not 0.

use crate::harness::{Demo, Said, Server, copy_test_pki, jarchy, openssl, run, text, wait_until};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use tempfile::TempDir;

#[track_caller]
fn assert_refused(said: &Said, parts: &[&str]) {
    assert_eq!(said.status.code(), Some(1), "{said:#?}");
    assert!(!said.err.contains("panicked"), "{said:#?}");
    for part in parts {
        assert!(said.err.contains(part), "no {part:?} in: {said:#?}");
    }
}

/// A folder with the test CAs and a config that `serve` takes, on a free port.
fn deployment() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_test_pki(dir.path());
    let file = |name: &str| text(&dir.path().join(name)).to_owned();
    let (ca, ca_key, delegate, key) =
        (file("ca-p256.pem"), file("ca-p256.key"), file("ocsp-p256.pem"), file("ocsp-p256.key"));
    let mut arguments = vec!["init", "--dir", text(dir.path()), "--issuer", "main", "--listen", "127.0.0.1:0"];
    arguments.extend(["--ca-cert", &ca, "--ca-key", &ca_key, "--ocsp-cert", &delegate, "--ocsp-key", &key]);
    jarchy(&arguments).ok("init");
    edit(dir.path(), "#admin = \"127.0.0.1:9180\"", "admin = \"off\"");
    dir
}

fn edit(dir: &Path, from: &str, to: &str) {
    let file = dir.join("jarchy.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{from:?} is not in {text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

fn serve(dir: &Path) -> Said {
    jarchy(&["serve", "--config", text(&dir.join("jarchy.toml"))])
}

#[test]
fn what_init_made_is_served() {
    let dir = deployment();
    let config = dir.path().join("jarchy.toml");
    let server = Server::start(&["serve", "--config", text(&config)], &dir.path().join("log"));
    let headers = server.headers("/crl/main.crl", &[]);
    assert!(headers.contains(" 200 "), "{headers}");

    // A copy is whole, and after a stop each file alone.
    let (delegate, copies) = (dir.path().join("ocsp-p256.pem"), dir.path().join("copies"));
    jarchy(&["add", text(&delegate), "--config", text(&config)]).ok("add");
    jarchy(&["database", "backup", text(&copies), "--config", text(&config)]).ok("backup");
    server.stop();
    let certificates =
        |file: &Path| run("sqlite3", &[text(file), "SELECT count(*) FROM certificates"]).ok("sqlite3").out;
    assert_eq!(certificates(&copies.join("issuance.db")), "1\n");
    for name in ["issuance.db", "jarchy-state.db"] {
        assert!(!dir.path().join(format!("{name}-wal")).exists(), "{name} is not whole");
        assert!(copies.join(name).exists(), "{name} was not copied");
    }
    assert_eq!(certificates(&dir.path().join("issuance.db")), "1\n");
}

#[test]
fn keys_that_are_missing_or_do_not_match_are_named() {
    let dir = deployment();
    edit(dir.path(), "key = \"ocsp-p256.key\"", "key = \"nowhere.key\"");
    assert_refused(&serve(dir.path()), &["nowhere.key", "No such file"]);
    edit(dir.path(), "nowhere.key", "ocsp-p384.key");
    assert_refused(&serve(dir.path()), &["ocsp-p384.key", "does not belong to the certificate", "OCSP p256"]);
}

#[test]
fn delegates_that_clients_would_refuse_are_refused() {
    let dir = deployment();
    let mut present = "ocsp-p256.pem";
    for (delegate, says) in [("ocsp-other-ca.pem", "was not issued by"), ("ocsp-no-eku.pem", "OCSPSigning")] {
        edit(dir.path(), present, delegate);
        assert_refused(&serve(dir.path()), &[says]);
        present = delegate;
    }
}

#[test]
fn an_unknown_setting_is_shown_in_its_line() {
    let dir = deployment();
    edit(dir.path(), "[server]\n", "[server]\nlissen = \"127.0.0.1:80\"\n");
    let line = 1 + fs::read_to_string(dir.path().join("jarchy.toml"))
        .unwrap()
        .lines()
        .position(|line| line.starts_with("lissen"))
        .unwrap();
    assert_refused(&serve(dir.path()), &[&format!("jarchy.toml:{line}:1: unknown field `lissen`"), "^^^^^^"]);
}

#[test]
fn a_missing_config_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    assert_refused(&serve(dir.path()), &["jarchy.toml does not exist", "jarchy init"]);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let dir = deployment();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    edit(dir.path(), "listen = \"127.0.0.1:0\"", &format!("listen = \"{address}\""));
    assert_refused(&serve(dir.path()), &[&address]);
    let demo = dir.path().join("demo");
    assert_refused(&jarchy(&["demo", "--dir", text(&demo), "--listen", &address]), &[&address]);
    assert!(!demo.exists(), "nothing is made that cannot be served");
}

#[test]
fn an_operators_port_that_is_taken_is_named_before_anyone_is_served() {
    let dir = deployment();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    edit(dir.path(), "admin = \"off\"", &format!("admin = \"{address}\""));
    let refused = serve(dir.path());
    assert_refused(&refused, &[&address, "[server] admin"]);
    assert!(!refused.err.contains("component=\"http\""), "it listened: {refused:#?}");
}

#[test]
fn the_database_of_another_program_is_left_alone() {
    let dir = deployment();
    let database = dir.path().join("issuance.db");
    fs::remove_file(&database).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&database).create_if_missing(true);
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        sqlx::query("CREATE TABLE theirs(x)").execute(&pool).await.unwrap();
        pool.close().await;
    });
    let before = fs::read(&database).unwrap();
    assert_refused(&serve(dir.path()), &["issuance.db", "another program"]);
    assert_eq!(fs::read(&database).unwrap(), before);
    fs::remove_file(&database).unwrap();
    assert_refused(&serve(dir.path()), &["issuance.db", "jarchy init"]);
}

#[test]
fn one_bad_file_in_a_folder_is_named_and_the_rest_is_added() {
    let dir = deployment();
    let folder = dir.path().join("issued");
    fs::create_dir(&folder).unwrap();
    for name in ["ocsp-p256.pem", "ocsp-no-eku.pem"] {
        fs::copy(dir.path().join(name), folder.join(name)).unwrap();
    }
    fs::write(folder.join("broken.pem"), "-----BEGIN CERTIFICATE-----\nbroken\n").unwrap();
    let config = dir.path().join("jarchy.toml");
    let said = jarchy(&["add", text(&folder), "--config", text(&config)]);
    assert_refused(&said, &["1 file or certificate was not added"]);
    assert!(said.all().contains("broken.pem: not a certificate"), "{said:#?}");
    for name in ["ocsp-p256.pem", "ocsp-no-eku.pem"] {
        jarchy(&["status", text(&folder.join(name)), "--config", text(&config)]).ok(name);
    }
}

#[test]
fn what_cannot_be_revoked_or_released_stays_as_it_is() {
    let (_work, dir) = Demo::copied();
    let config = dir.join("jarchy.toml");
    let operator = |arguments: &[&str]| jarchy(&[arguments, &["--config", text(&config)]].concat());
    let file = |name: &str| text(&dir.join(name)).to_owned();
    let status = |name: &str| operator(&["status", &file(name)]).ok("status").out;

    assert_refused(&operator(&["revoke", "0DDBA11", "--reason", "superseded"]), &["DDBA11"]);
    assert_refused(&operator(&["revoke", &file("not-issued.pem"), "--reason", "superseded"]), &["no certificate"]);
    assert_refused(&operator(&["release", &file("good.pem")]), &["is not on hold"]);
    assert_refused(&operator(&["release", &file("revoked-key-compromise.pem")]), &["is not on hold"]);

    let before = status("revoked-key-compromise.pem");
    let again = operator(&["revoke", &file("revoked-key-compromise.pem"), "--reason", "superseded"]);
    assert_refused(&again, &["already", "--update", "since 20"]);
    assert_eq!(status("revoked-key-compromise.pem"), before);
    operator(&["revoke", &file("revoked-key-compromise.pem"), "--update", "--reason", "superseded", "--by", "ann"])
        .ok("revoke --update");
    let after = status("revoked-key-compromise.pem");
    assert!(after.contains("reason superseded") && after.contains("by ann"), "{after}");
}

#[test]
fn an_issuer_whose_rules_know_no_hold_refuses_it() {
    let (_work, dir) = Demo::copied();
    edit(&dir, "#profile = \"private\"", "profile = \"tls-br\"");
    let (config, good) = (dir.join("jarchy.toml"), dir.join("good.pem"));
    let said = jarchy(&["hold", text(&good), "--config", text(&config)]);
    assert_refused(&said, &["profile tls-br", "cannot be put on hold"]);
    assert!(jarchy(&["status", text(&good), "--config", text(&config)]).ok("status").out.contains("good"));
}

#[test]
fn a_holders_certificates_are_revoked_together_the_renewal_included() {
    let demo = Demo::start();
    let shown = demo.operator(&["status", &demo.file("renewal.pem"), "--json"]).ok("status").out;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let holder = shown["holder"].as_str().unwrap().to_owned();
    let said = demo.operator(&["revoke", "--holder", &holder, "--reason", "ceased"]).ok("revoke --holder");
    assert!(said.out.lines().count() > 2, "{said:?}");
    wait_until("the renewal is answered revoked", || {
        crate::harness::contains(&demo.ask("renewal", &["-no_nonce"]), "renewal.pem: revoked")
    });
}

#[test]
fn every_command_shows_an_example() {
    let help = jarchy(&["--help"]).ok("--help").out;
    for command in ["demo", "init", "serve", "add", "revoke", "hold", "release", "status", "query"] {
        assert!(help.contains(&format!("  {command} ")), "{command} is not in {help}");
        let own = jarchy(&[command, "--help"]).ok(command).out;
        assert!(own.contains("Example") && own.contains(&format!("jarchy {command}")), "{own}");
    }
    assert_eq!(jarchy(&["revoke"]).status.code(), Some(2), "a wrong command line");
}

#[test]
fn a_config_in_the_working_directory_is_found() {
    let (_work, dir) = Demo::copied();
    let said = std::process::Command::new(env!("CARGO_BIN_EXE_jarchy"))
        .args(["status", "good.pem"])
        .current_dir(&dir)
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    let serial = openssl(&["x509", "-in", text(&dir.join("good.pem")), "-noout", "-serial"]).ok("x509").out;
    assert!(String::from_utf8_lossy(&said.stdout).contains(serial.trim().trim_start_matches("serial=")));
}
