//! The whole of it with the issuance database on a PostgreSQL or MariaDB server: what README.md says, typed.

use crate::harness::{Demo, Said, Server, contains, jarchy, openssl, run, text, wait_until};
use crate::servers::{self, Engine};
use std::fs;
use std::path::Path;

/// What a CA's own software would write.
fn revoke(engine: Engine, serial: &str) -> String {
    let (table, serial, now) = match engine {
        Engine::Postgres => ("jarchy.certificates", format!("'\\x{serial}'"), "jarchy.now()"),
        Engine::MariaDb => ("certificates", format!("x'{serial}'"), "UNIX_TIMESTAMP()"),
    };
    format!(
        "UPDATE {table} SET status = 'revoked', revoked_at = {now}, reason = 1, actor = 'ra' WHERE serial = {serial}"
    )
}

/// The demo's CA and its certificates, with a config of `init` for a database at `url`.
fn installed(dir: &Path, url: &str) -> String {
    let (_work, demo) = Demo::copied();
    for name in ["ca.pem", "ca.key", "ocsp.pem", "ocsp.key", "good.pem", "renewal.pem"] {
        fs::copy(demo.join(name), dir.join(name)).unwrap();
    }
    let file = |name: &str| text(&dir.join(name)).to_owned();
    let (ca, ca_key, ocsp, ocsp_key) = (file("ca.pem"), file("ca.key"), file("ocsp.pem"), file("ocsp.key"));
    let mut init = vec!["init", "--dir", text(dir), "--issuer", "main", "--listen", "127.0.0.1:0", "--database", url];
    init.extend(["--ca-cert", &ca, "--ca-key", &ca_key, "--ocsp-cert", &ocsp, "--ocsp-key", &ocsp_key]);
    jarchy(&init).ok("init");
    let config = dir.join("jarchy.toml");
    let off = fs::read_to_string(&config).unwrap().replace("#admin = \"127.0.0.1:9180\"", "admin = \"off\"");
    fs::write(&config, off).unwrap();
    text(&config).to_owned()
}

fn ask(dir: &Path, server: &Server, name: &str) -> String {
    let (ca, certificate) = (dir.join("ca.pem"), dir.join(name));
    let url = format!("{}/ocsp", server.url);
    openssl(&["ocsp", "-issuer", text(&ca), "-CAfile", text(&ca), "-url", &url, "-cert", text(&certificate)]).all()
}

#[test]
fn a_revocation_by_plain_sql_is_answered_and_listed() {
    for server in Engine::ALL.into_iter().filter_map(servers::Server::shared) {
        let work = tempfile::tempdir().unwrap();
        let (dir, database) = (work.path(), server.database());
        let config = installed(dir, &database.url());
        let operator = |arguments: &[&str]| -> Said { jarchy(&[arguments, &["--config", &config]].concat()) };
        let (good, other) = (dir.join("good.pem"), dir.join("renewal.pem"));
        operator(&["add", text(&good), text(&other), "--holder", "EMP-1"]).ok("add");

        let running = Server::start(&["serve", "--config", &config], &dir.join("log"));
        let answer = ask(dir, &running, "good.pem");
        assert!(answer.contains("Response verify OK") && answer.contains("good.pem: good"), "{answer}");
        let serial = openssl(&["x509", "-in", text(&good), "-noout", "-serial"]).ok("x509").out;
        let serial = serial.trim().trim_start_matches("serial=");
        let first = u8::from_str_radix(&serial[..2], 16).unwrap();
        database.sql(&revoke(server.engine, &if first >= 0x80 { format!("00{serial}") } else { serial.to_owned() }));
        wait_until("the revocation is answered", || contains(&ask(dir, &running, "good.pem"), "good.pem: revoked"));
        let list = dir.join("list.der");
        wait_until("and listed", || {
            running.fetch("/crl/main.crl", &list);
            let said = openssl(&["crl", "-inform", "DER", "-in", text(&list), "-noout", "-text"]).all();
            contains(&said, &format!("Serial Number: {serial}"))
        });

        operator(&["hold", text(&other)]).ok("hold");
        wait_until("the hold is answered", || contains(&ask(dir, &running, "renewal.pem"), "revoked"));
        operator(&["release", text(&other)]).ok("release");
        wait_until("the release is answered", || contains(&ask(dir, &running, "renewal.pem"), ".pem: good"));
        running.stop();

        let shown = operator(&["status", text(&good)]).ok("status").out;
        contains(&shown, "keyCompromise").unwrap();
        let again = operator(&["revoke", text(&good), "--reason", "superseded"]);
        assert!(!again.status.success() && again.err.contains("already; --update changes"), "{again:?}");
        contains(&operator(&["database", "trim", "--older-than", "0s"]).ok("trim").out, "trimmed 4 changes").unwrap();
        contains(&operator(&["database", "restored"]).ok("restored").out, "(epoch 2)").unwrap();
    }
}

#[test]
fn promise_12_a_start_without_the_database_serves_what_is_known_and_the_rest_when_it_is_back() {
    for mut server in Engine::ALL.into_iter().filter_map(|engine| servers::Server::start(engine, &[])) {
        let work = tempfile::tempdir().unwrap();
        let dir = work.path();
        let config = installed(dir, &server.database().url());
        let operator = |arguments: &[&str]| -> Said { jarchy(&[arguments, &["--config", &config]].concat()) };
        let (good, other) = (dir.join("good.pem"), dir.join("renewal.pem"));
        operator(&["add", text(&good), text(&other), "--holder", "EMP-1"]).ok("add");
        operator(&["revoke", text(&other), "--reason", "superseded"]).ok("revoke");
        let running = Server::start(&["serve", "--config", &config], &dir.join("log"));
        wait_until("it is revoked", || contains(&ask(dir, &running, "renewal.pem"), "renewal.pem: revoked"));
        let listed = |running: &Server| {
            let (url, list) = (format!("{}/crl/main.crl", running.url), dir.join("list.der"));
            let fetched = run("curl", &["-fsS", "-o", text(&list), &url]);
            let said = openssl(&["crl", "-inform", "DER", "-in", text(&list), "-noout", "-text"]).all();
            if fetched.status.success() { contains(&said, "Superseded") } else { Err(fetched.err) }
        };
        wait_until("it is listed", || listed(&running));
        running.stop();

        // After a power cut the database takes longer than Jarchy.
        server.stop();
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let mut running =
            Server::spawn(&["serve", "--config", &config, "--listen", &port.to_string()], &dir.join("log"));
        running.url = format!("http://{port}");
        wait_until("what is revoked is told", || contains(&ask(dir, &running, "renewal.pem"), "renewal.pem: revoked"));
        contains(&ask(dir, &running, "good.pem"), "trylater").unwrap();
        wait_until("what is listed is served", || listed(&running));
        server.restart();
        assert_eq!(running.serving(), running.url);
        contains(&ask(dir, &running, "good.pem"), "good.pem: good").unwrap();
        operator(&["revoke", text(&good), "--reason", "superseded"]).ok("revoke");
        wait_until("changes are followed", || contains(&ask(dir, &running, "good.pem"), "good.pem: revoked"));
        running.stop();
    }
}
