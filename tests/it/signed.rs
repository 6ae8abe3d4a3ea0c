//! Signed requests, as `openssl ocsp` makes them.

use crate::harness::{Server, contains, copy_test_pki, jarchy, openssl, run, text, wait_until};
use jarchy::registry::Registry;
use std::fs;
use std::path::Path;

/// Makes `name.pem` and `name.key`, which `ca` issues.
fn requestor(dir: &Path, name: &str, ca: &str) {
    let file = |name: &str| text(&dir.join(name)).to_owned();
    let (key, request, certificate) = (file(&format!("{name}.key")), file("request.csr"), file(&format!("{name}.pem")));
    let subject = format!("/CN={name}");
    let new = ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", &subject, "-keyout", &key, "-out", &request];
    openssl(&new).ok("req");
    let (ca_file, ca_key) = (file(&format!("{ca}.pem")), file(&format!("{ca}.key")));
    let sign = ["x509", "-req", "-in", &request, "-CA", &ca_file, "-CAkey", &ca_key, "-CAcreateserial", "-days", "9"];
    openssl(&[&sign[..], &["-out", &certificate]].concat()).ok("x509");
}

/// One issuer that everybody may ask, and one that answers only whom `ca-p384` or itself certified or who holds
/// `ocsp-ed25519.key`. Both say `unknown` of what they did not issue, which takes a signature.
const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:0"
admin = "off"
[[issuer]]
name = "open"
certificate = "ca-rsa2048.pem"
[issuer.ocsp]
key = "ca-rsa2048.key"
not_issued = "unknown"
[[issuer]]
name = "closed"
certificate = "ca-p256.pem"
[issuer.ocsp]
key = "ca-p256.key"
not_issued = "unknown"
require_signed = true
trusted_requestors = ["ca-p384.pem", "ca-p256.pem", "ocsp-ed25519.pem"]
"#;

#[test]
fn ocsp_25_whoever_may_not_ask_gets_no_answer_and_whoever_may_does() {
    let work = tempfile::tempdir().unwrap();
    let dir = work.path();
    copy_test_pki(dir);
    requestor(dir, "trusted", "ca-p384");
    requestor(dir, "stranger", "ca-rsa2048");
    requestor(dir, "holder", "ca-p256");
    let config = dir.join("jarchy.toml");
    fs::write(&config, CONFIG).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Registry::create(&dir.join("issuance.db")).await.unwrap().close().await });
    let server = Server::start(&["serve", "--config", text(&config)], &dir.join("log"));

    let url = format!("{}/ocsp", server.url);
    let ask = |ca: &str, signer: Option<(&str, &str)>| {
        let ca = dir.join(format!("{ca}.pem"));
        let files = signer.map(|(certificate, key)| (dir.join(certificate), dir.join(key)));
        let mut arguments = vec!["ocsp", "-issuer", text(&ca), "-CAfile", text(&ca), "-serial", "77", "-url", &url];
        if let Some((certificate, key)) = &files {
            arguments.extend(["-signer", text(certificate), "-signkey", text(key)]);
        }
        openssl(&arguments).all()
    };
    let answered = |said: &str| said.contains("Response verify OK") && said.contains("77: unknown");

    for signer in [None, Some(("trusted.pem", "trusted.key")), Some(("stranger.pem", "stranger.key"))] {
        let said = ask("ca-rsa2048", signer);
        assert!(answered(&said), "{signer:?}, where everybody may ask: {said}");
    }
    for signer in [("trusted.pem", "trusted.key"), ("ocsp-ed25519.pem", "ocsp-ed25519.key")] {
        let said = ask("ca-p256", Some(signer));
        assert!(answered(&said), "{signer:?}: {said}");
    }
    let said = ask("ca-p256", None);
    assert!(said.contains("Responder Error: sigrequired (5)"), "{said}");
    let said = ask("ca-p256", Some(("stranger.pem", "stranger.key")));
    assert!(said.contains("Responder Error: unauthorized (6)"), "{said}");

    // Its own holders may ask for as long as they are not revoked.
    let config = text(&config);
    jarchy(&["add", text(&dir.join("holder.pem")), "--config", config]).ok("add");
    let holder = || ask("ca-p256", Some(("holder.pem", "holder.key")));
    assert!(answered(&holder()), "{}", holder());
    jarchy(&["revoke", text(&dir.join("holder.pem")), "--reason", "superseded", "--config", config]).ok("revoke");
    wait_until("a revoked requestor is refused", || contains(&holder(), "unauthorized (6)"));

    // What one was told is not for a cache to tell others (HTTP-16).
    let (ca, signed) = (dir.join("ca-p256.pem"), dir.join("signed.der"));
    let (signer, key) = (dir.join("trusted.pem"), dir.join("trusted.key"));
    let make = ["ocsp", "-issuer", text(&ca), "-serial", "77", "-no_nonce", "-reqout", text(&signed)];
    openssl(&[&make[..], &["-signer", text(&signer), "-signkey", text(&key)]].concat());
    let body = format!("@{}", text(&signed));
    let headers = server.headers("/ocsp", &["-H", "Content-Type: application/ocsp-request", "--data-binary", &body]);
    let headers = headers.to_lowercase();
    assert!(headers.contains("200 ok") && headers.contains("no-store") && !headers.contains("max-age"), "{headers}");

    // One octet of what was signed changed: the serial number asked for.
    let mut changed = fs::read(&signed).unwrap();
    let at = changed.windows(3).position(|octets| octets == [2, 1, 77]).unwrap() + 2;
    changed[at] = 78;
    let (request, answer) = (dir.join("changed.der"), dir.join("answer.der"));
    fs::write(&request, changed).unwrap();
    let (asked, answered) = (format!("@{}", text(&request)), text(&answer));
    let url = format!("{}/ocsp", server.url);
    let post = ["-fsS", "-o", answered, "--data-binary", &asked, &url];
    run("curl", &post).ok("curl");
    assert_eq!(fs::read(&answer).unwrap(), [0x30, 3, 0x0a, 1, 6]);
    server.stop();
}
