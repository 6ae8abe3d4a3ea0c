//! What `jarchy demo` promises to whoever runs it for the first time.

use crate::harness::{Demo, Server, contains, openssl, run, text, wait_until};
use std::fs;
use std::path::Path;

/// A demo that the binary makes itself, so that its certificates name the port that it listens on.
fn first_run(work: &Path) -> Server {
    let dir = work.join("a demo");
    Server::start(&["demo", "--dir", text(&dir), "--listen", "127.0.0.1:0"], &work.join("log"))
}

#[test]
fn every_line_that_is_printed_works_when_pasted_elsewhere() {
    let work = tempfile::tempdir().unwrap();
    let server = first_run(work.path());
    let announced = server.announced();
    let lines: Vec<&str> = announced.iter().filter_map(|line| line.strip_prefix("  ")).collect();
    assert!(lines.len() >= 10, "{announced:#?}");
    let elsewhere = work.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for line in lines {
        // What the lines before have changed reaches the lists within a second: faster than a person pastes,
        // slower than a loop.
        wait_until(line, || {
            let said = run("sh", &["-c", &format!("cd {} && {line}", text(&elsewhere))]);
            let bad = ["rror", "FAILED", "unauthorized"].iter().any(|word| said.all().contains(word));
            if said.status.success() && !bad { Ok(()) } else { Err(format!("{said:#?}")) }
        });
    }
    assert_eq!(fs::read_dir(elsewhere).unwrap().count(), 0, "nothing is written where one happens to be");
}

#[test]
fn certificates_lead_to_the_server_that_runs() {
    let work = tempfile::tempdir().unwrap();
    let server = first_run(work.path());
    let dir = work.path().join("a demo");
    let good = dir.join("good.pem");
    let uri = openssl(&["x509", "-in", text(&good), "-noout", "-ocsp_uri"]).ok("x509").out;
    assert_eq!(uri.trim(), format!("{}/ocsp", server.url));
    let shown = openssl(&["x509", "-in", text(&good), "-noout", "-text"]).ok("x509").out;
    for part in ["/crl/demo.crl", "/ca/demo.cer"] {
        contains(&shown, &format!("URI:{}{part}", server.url)).unwrap();
    }
    for part in ["DNS:localhost", "TLS Web Server Authentication", "TLS Web Client Authentication", "Non Repudiation"] {
        contains(&shown, part).unwrap();
    }
    let ca = dir.join("ca.pem");
    let shown = openssl(&["x509", "-in", text(&ca), "-noout", "-text"]).ok("x509").out;
    contains(&shown, "Jarchy Demo Certification Centre").unwrap();
    // With lists that OpenSSL itself fetches from where the certificate says.
    let arguments = ["verify", "-x509_strict", "-crl_check", "-crl_download", "-CAfile", text(&ca), text(&good)];
    openssl(&arguments).ok("verify -crl_download");

    let shown = openssl(&["x509", "-in", text(&dir.join("ocsp.pem")), "-noout", "-text"]).ok("x509").out;
    contains(&shown, "OCSP Signing").unwrap();
    contains(&shown, "OCSP No Check").unwrap();
    assert!(!shown.contains("URI:"), "{shown}");
}

#[test]
fn a_demo_is_continued_as_it_is() {
    let mut demo = Demo::start();
    demo.operator(&["revoke", &demo.file("good.pem"), "--reason", "superseded"]).ok("revoke");
    let before = fs::read(demo.file("ca.pem")).unwrap();
    let config = fs::read(demo.config()).unwrap();
    demo.restart();
    contains(&demo.ask("good", &[]), "good.pem: revoked").unwrap();
    assert_eq!(fs::read(demo.file("ca.pem")).unwrap(), before);
    assert_eq!(fs::read(demo.config()).unwrap(), config);
    // Copies were made for port 8080.
    let second = demo.server.announced();
    contains(&second.join("\n"), "certificates name http://127.0.0.1:8080/").unwrap();
}

#[test]
fn a_folder_with_something_else_in_it_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine"), "x").unwrap();
    let said = crate::harness::jarchy(&["demo", "--dir", text(dir.path()), "--listen", "127.0.0.1:0"]);
    assert!(!said.status.success() && said.err.contains("is not empty"), "{said:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn the_threads_that_answer_come_before_all_others() {
    let demo = Demo::start();
    // Lists and their state have been made by now.
    demo.server.fetch("/crl/demo.crl", &demo.scratch("list"));
    let threads = demo.server.threads();
    let nice = |of: &str| {
        let theirs: Vec<i32> = threads.iter().filter(|(name, _)| name.starts_with(of)).map(|(_, nice)| *nice).collect();
        (theirs.iter().min().copied().expect(of), theirs.iter().max().copied().expect(of))
    };
    let answering = nice("http-").1;
    assert!(nice("tokio-").0 > answering && nice("index-file").0 > answering, "{threads:?}");
}
