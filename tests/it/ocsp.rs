//! OCSP as `openssl ocsp` and `curl` see it.

use crate::harness::{Demo, contains, openssl, text, wait_until};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fs;

/// What is answered for each named certificate that was issued.
const NAMED: [(&str, &str); 6] = [
    ("good", "good"),
    ("revoked-key-compromise", "revoked"),
    ("on-hold", "revoked"),
    ("renewal", "good"),
    ("expired", "good"),
    ("expired-revoked", "revoked"),
];

fn assert_answer(demo: &Demo, name: &str, status: &str, said: &str) {
    assert!(said.contains("Response verify OK"), "{name}: {said}");
    assert!(said.contains(&format!("{}: {status}\n", demo.file(&format!("{name}.pem")))), "{name}: {said}");
}

#[test]
fn every_named_certificate_is_answered_by_post_with_and_without_nonce() {
    let demo = Demo::start();
    for (name, status) in NAMED {
        let with_nonce = demo.ask(name, &["-resp_text"]);
        assert_answer(&demo, name, status, &with_nonce);
        assert!(with_nonce.contains("OCSP Nonce") && !with_nonce.contains("no nonce"), "{name}: {with_nonce}");
        let without = demo.ask(name, &["-no_nonce", "-resp_text"]);
        assert_answer(&demo, name, status, &without);
        assert!(!without.contains("OCSP Nonce"), "{name}: {without}");
    }
    let reasons = [("revoked-key-compromise", "keyCompromise"), ("on-hold", "certificateHold")];
    for (name, reason) in reasons {
        contains(&demo.ask(name, &[]), &format!("Reason: {reason}")).unwrap();
    }
}

#[test]
fn every_hash_of_a_cert_id_finds_the_same_answer() {
    let demo = Demo::start();
    for hash in ["-sha1", "-sha256", "-sha384", "-sha512"] {
        for (name, status) in NAMED {
            assert_answer(&demo, name, status, &demo.ask(name, &[hash]));
        }
    }
}

#[test]
fn what_was_not_issued_is_never_good() {
    let demo = Demo::start();
    for extra in [&[][..], &["-no_nonce"], &["-sha256"]] {
        let said = demo.ask("not-issued", extra);
        assert!(said.contains("unauthorized (6)") && !said.contains(": good"), "{said}");
    }
    // A CA that is not served here.
    let dir = demo.scratch("other");
    fs::create_dir(&dir).unwrap();
    crate::harness::copy_test_pki(&dir);
    let (ca, delegate) = (dir.join("ca-p256.pem"), dir.join("ocsp-p256.pem"));
    let url = format!("{}/ocsp", demo.server.url);
    let said = openssl(&["ocsp", "-issuer", text(&ca), "-cert", text(&delegate), "-url", &url]).all();
    assert!(said.contains("unauthorized (6)"), "{said}");
}

/// The path of a GET request for a named certificate below `prefix`.
fn get_path(demo: &Demo, name: &str, prefix: &str) -> String {
    let request = demo.scratch("request.der");
    let (ca, certificate) = (demo.file("ca.pem"), demo.file(&format!("{name}.pem")));
    openssl(&["ocsp", "-issuer", &ca, "-cert", &certificate, "-no_nonce", "-reqout", text(&request)]);
    let encoded = STANDARD.encode(fs::read(&request).unwrap());
    format!("{prefix}/{}", encoded.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"))
}

#[test]
fn every_named_certificate_is_answered_by_get_on_both_paths() {
    let demo = Demo::start();
    let (ca, response) = (demo.file("ca.pem"), demo.scratch("response.der"));
    for (name, status) in NAMED {
        let certificate = demo.file(&format!("{name}.pem"));
        for prefix in ["/ocsp", "/ocsp/demo"] {
            demo.server.fetch(&get_path(&demo, name, prefix), &response);
            let read = ["ocsp", "-issuer", &ca, "-cert", &certificate, "-CAfile", &ca, "-respin", text(&response)];
            assert_answer(&demo, name, status, &openssl(&read).all());
        }
    }
}

#[test]
fn caches_are_told_how_long_an_answer_lasts_and_can_ask_again() {
    let demo = Demo::start();
    let path = get_path(&demo, "good", "/ocsp");
    let headers = demo.server.headers(&path, &[]).to_lowercase();
    for part in ["200 ok", "content-type: application/ocsp-response", "cache-control: ", "max-age=", "expires: "] {
        contains(&headers, part).unwrap();
    }
    let etag = headers.lines().find_map(|line| line.strip_prefix("etag: ")).expect("an ETag").trim().to_owned();
    let again = demo.server.headers(&path, &["-H", &format!("If-None-Match: {etag}")]);
    assert!(again.contains(" 304 ") && again.ends_with("body 0"), "{again}");
    let absent = demo.server.headers(&get_path(&demo, "not-issued", "/ocsp"), &[]).to_lowercase();
    contains(&absent, "no-store").unwrap();
}

#[test]
fn a_revocation_made_by_another_process_is_answered_and_a_release_too() {
    let demo = Demo::start();
    assert_answer(&demo, "good", "good", &demo.ask("good", &["-no_nonce"]));
    demo.operator(&["revoke", &demo.file("good.pem"), "--reason", "token-lost"]).ok("revoke");
    wait_until("good.pem is answered revoked", || contains(&demo.ask("good", &["-no_nonce"]), "good.pem: revoked"));
    contains(&demo.ask("good", &[]), "Reason: keyCompromise").unwrap();
    demo.operator(&["release", &demo.file("on-hold.pem")]).ok("release");
    wait_until("on-hold.pem is answered good", || contains(&demo.ask("on-hold", &["-no_nonce"]), "on-hold.pem: good"));
}

#[test]
fn an_answer_survives_a_restart() {
    let mut demo = Demo::start();
    demo.operator(&["hold", &demo.file("renewal.pem")]).ok("hold");
    wait_until("renewal.pem is on hold", || contains(&demo.ask("renewal", &[]), "renewal.pem: revoked"));
    demo.restart();
    assert_answer(&demo, "renewal", "revoked", &demo.ask("renewal", &[]));
    assert_answer(&demo, "good", "good", &demo.ask("good", &[]));
}

#[test]
fn garbage_gets_an_error_of_ocsp() {
    let demo = Demo::start();
    let (garbage, response) = (demo.scratch("garbage"), demo.scratch("response.der"));
    fs::write(&garbage, b"\x30\x03garbage").unwrap();
    let url = format!("{}/ocsp", demo.server.url);
    let data = format!("@{}", text(&garbage));
    let header = "Content-Type: application/ocsp-request";
    let arguments = ["-sS", "-H", header, "--data-binary", &data, "-o", text(&response), &url];
    crate::harness::run("curl", &arguments).ok("curl");
    // malformedRequest (1).
    assert_eq!(fs::read(&response).unwrap(), [0x30, 3, 0x0a, 1, 1]);
}
