//! Several CAs in one server.

use crate::crl_commands::admin;
use crate::harness::{Said, Server, contains, copy_test_pki, jarchy, openssl, run, text, wait_until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// The serial that both CAs issued.
const SERIAL: &str = "0x5EC0DE";

/// A CA that signs everything itself, and one with a delegate, each with one certificate: `ec.pem`, `rsa.pem`.
fn two_cas() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_test_pki(dir.path());
    let file = |name: &str| text(&dir.path().join(name)).to_owned();
    for (name, ca) in [("ec", "ca-p256"), ("rsa", "ca-rsa2048")] {
        let (key, request, certificate) = (file("leaf.key"), file("leaf.csr"), file(&format!("{name}.pem")));
        let subject = format!("/CN=Holder {name}");
        let new =
            ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", &subject, "-keyout", &key, "-out", &request];
        openssl(&new).ok("req");
        let (ca_file, ca_key) = (file(&format!("{ca}.pem")), file(&format!("{ca}.key")));
        let sign = ["x509", "-req", "-in", &request, "-CA", &ca_file, "-CAkey", &ca_key, "-set_serial", SERIAL];
        openssl(&[&sign[..], &["-days", "100", "-out", &certificate]].concat()).ok("x509");
    }
    let (ca, key) = (file("ca-p256.pem"), file("ca-p256.key"));
    let mut init = vec!["init", "--dir", text(dir.path()), "--issuer", "ec", "--listen", "127.0.0.1:0"];
    init.extend(["--ca-cert", &ca, "--ca-key", &key, "--public-url", "http://status.example.org"]);
    jarchy(&init).ok("init");
    add_second(dir.path());
    let config = file("jarchy.toml");
    for name in ["ec.pem", "rsa.pem"] {
        jarchy(&["add", &file(name), "--config", &config]).ok("add");
    }
    dir
}

/// The second CA comes into the config by hand, as the README tells; the database learns of it from there.
fn add_second(dir: &Path) {
    let config = dir.join("jarchy.toml");
    let first = fs::read_to_string(&config).unwrap().replace("#admin = \"127.0.0.1:9180\"", "admin = \"off\"");
    let second = "
[[issuer]]
name = \"rsa\"
certificate = \"ca-rsa2048.pem\"
[issuer.ocsp]
certificate = \"ocsp-rsa2048.pem\"
key = \"ocsp-rsa2048.key\"
[issuer.crl]
key = \"ca-rsa2048.key\"
";
    fs::write(&config, first + second).unwrap();
}

fn ask(dir: &Path, server: &Server, name: &str, ca: &str, path: &str) -> Said {
    let (ca, certificate) = (dir.join(ca), dir.join(format!("{name}.pem")));
    let (ca, url) = (text(&ca), format!("{}{path}", server.url));
    openssl(&["ocsp", "-issuer", ca, "-CAfile", ca, "-url", &url, "-cert", text(&certificate)])
}

/// A CA that signs its own OCSP responses and CRLs, and whose certificate has ended.
fn expired_ca(dir: &Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Old CA");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    use rcgen::KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign};
    params.key_usages = vec![DigitalSignature, KeyCertSign, CrlSign];
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2016, 1, 1), rcgen::date_time_ymd(2026, 1, 1));
    fs::write(dir.join("old.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.join("old.key"), key.serialize_pem()).unwrap();
    fs::set_permissions(dir.join("old.key"), fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_ca_that_has_ended_keeps_nobody_else_from_answering() {
    let work = two_cas();
    let dir = work.path();
    expired_ca(dir);
    let config = dir.join("jarchy.toml");
    let old = "
[[issuer]]
name = \"old\"
certificate = \"old.pem\"
[issuer.crl]
key = \"old.key\"
";
    let before = fs::read_to_string(&config).unwrap();
    let with_admin = before.replace("admin = \"off\"", "admin = \"127.0.0.1:0\"\ngrace = \"0s\"");
    fs::write(&config, with_admin.clone() + old).unwrap();
    let check = || jarchy(&["config", "check", "--config", text(&config)]);
    let checked = check().ok("config check").out;
    assert!(checked.contains("issuer \"old\" answers nothing") && checked.ends_with(" can be served\n"), "{checked}");
    assert!(!dir.join("jarchy-state.db").exists(), "it was only looked at");

    let server = Server::start(&["serve", "--config", text(&config)], &dir.join("log"));
    let said = ask(dir, &server, "ec", "ca-p256.pem", "/ocsp").all();
    assert!(said.contains("Response verify OK") && said.contains(".pem: good"), "{said}");
    let admin = admin(&server);
    let ready = |issuer: &str| {
        let url = format!("http://{admin}/health/ready{issuer}");
        run("curl", &["-sS", "-o", "/dev/null", "-w", "%{http_code}", &url]).ok("curl").out
    };
    wait_until("the CRLs are there", || contains(&ready("/ec"), "200"));
    assert_eq!([ready("/rsa"), ready("/old"), ready("")], ["200", "503", "503"]);
    let metrics = run("curl", &["-sS", &format!("http://{admin}/metrics")]).ok("curl").out;
    for shown in [
        "jarchy_component_state{component=\"ocsp:old\",state=\"failed\"} 1",
        "jarchy_certificate_not_after_seconds{issuer=\"old\",role=\"ca\"} 1767225600",
        "jarchy_config_reload_success 1",
    ] {
        contains(&metrics, shown).unwrap();
    }

    // What a running service would refuse is found before it is told of it.
    fs::write(&config, with_admin.replace("key = \"ocsp-rsa2048.key\"", "key = \"ocsp-p256.key\"") + old).unwrap();
    let refused = check();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    contains(&refused.err, "issuer \"rsa\": ").unwrap();
    contains(&refused.err, "does not belong to the certificate").unwrap();
    server.signal("HUP");
    let metric = |shown: &str| {
        let metrics = run("curl", &["-sS", &format!("http://{admin}/metrics")]).ok("curl").out;
        contains(&metrics, shown)
    };
    wait_until("it is refused", || metric("jarchy_config_reload_success 0"));
    let other = with_admin.replacen("[server]\n", "[server]\ndrain = \"7s\"\n", 1);
    fs::write(&config, other + old).unwrap();
    server.signal("HUP");
    wait_until("it is taken", || metric("jarchy_config_reload_success 1"));
    wait_until("the log names it", || contains(&server.log(), "needs a restart: server.drain"));
    server.stop();
}

#[test]
fn each_ca_answers_for_its_own() {
    let work = two_cas();
    let dir = work.path();
    let config = dir.join("jarchy.toml");
    let server = Server::start(&["serve", "--config", text(&config)], &dir.join("log"));
    let cas = [("ec", "ca-p256.pem"), ("rsa", "ca-rsa2048.pem")];
    for (name, ca) in cas {
        for path in ["/ocsp".to_owned(), format!("/ocsp/{name}")] {
            let said = ask(dir, &server, name, ca, &path).all();
            assert!(said.contains("Response verify OK") && said.contains(".pem: good"), "{name} {path}: {said}");
        }
    }
    // The one's path does not answer for the other.
    let said = ask(dir, &server, "ec", "ca-p256.pem", "/ocsp/rsa").all();
    assert!(said.contains("unauthorized (6)"), "{said}");

    // Both issued this serial; only the one named is revoked.
    let both = jarchy(&["revoke", SERIAL, "--reason", "superseded", "--config", text(&config)]);
    assert!(!both.status.success() && both.err.contains("--issuer"), "{both:?}");
    let one = ["revoke", SERIAL, "--issuer", "rsa", "--reason", "superseded", "--config", text(&config)];
    jarchy(&one).ok("revoke --issuer");
    wait_until("rsa.pem is answered revoked", || {
        contains(&ask(dir, &server, "rsa", "ca-rsa2048.pem", "/ocsp").all(), "rsa.pem: revoked")
    });
    contains(&ask(dir, &server, "ec", "ca-p256.pem", "/ocsp").all(), "ec.pem: good").unwrap();

    for (name, ca) in cas {
        let list = dir.join("list.der");
        let listed = || {
            server.fetch(&format!("/crl/{name}.crl"), &list);
            let said = openssl(&["crl", "-inform", "DER", "-in", text(&list), "-CAfile", text(&dir.join(ca)), "-text"]);
            contains(&said.all(), "verify OK")?;
            contains(&said.out, if name == "rsa" { "Serial Number: 5EC0DE" } else { "No Revoked Certificates" })
        };
        wait_until("lists say the same", listed);
    }
    server.stop();
}

#[test]
fn a_ca_that_may_not_sign_ocsp_responses_publishes_crls_alone() {
    let work = tempfile::tempdir().unwrap();
    let file = |name: &str| text(&work.path().join(name)).to_owned();
    let (ca, key, dir) = (file("root.pem"), file("root.key"), file("jarchy"));
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9"];
    let what = ["-subj", "/CN=Offline Root", "-addext", "keyUsage=critical,keyCertSign,cRLSign"];
    openssl(&[&new[..], &what, &["-keyout", &key, "-out", &ca]].concat()).ok("req");
    let init = ["init", "--dir", &dir, "--issuer", "root", "--ca-cert", &ca, "--ca-key", &key];
    let refused = jarchy(&init);
    for way in ["--ocsp-cert and --ocsp-key of a delegate", "--crl-only", "without digitalSignature"] {
        assert!(refused.err.contains(way), "{refused:?}");
    }
    jarchy(&[&init[..], &["--crl-only"]].concat()).ok("init");
    let config = file("jarchy/jarchy.toml");
    let off = fs::read_to_string(&config).unwrap().replace("#admin = \"127.0.0.1:9180\"", "admin = \"off\"");
    fs::write(&config, &off).unwrap();

    let mut server =
        Server::start(&["serve", "--config", &config, "--listen", "127.0.0.1:0"], &work.path().join("log"));
    let list = work.path().join("root.crl");
    server.fetch("/crl/root.crl", &list);
    let read = openssl(&["crl", "-inform", "DER", "-in", text(&list), "-noout", "-CAfile", &ca]).all();
    contains(&read, "verify OK").unwrap();
    for path in ["/ocsp", "/ocsp/root"] {
        let url = format!("{}{path}", server.url);
        let said = openssl(&["ocsp", "-issuer", &ca, "-CAfile", &ca, "-url", &url, "-serial", "7"]).all();
        contains(&said, "unauthorized").unwrap();
    }
    contains(&jarchy(&["config", "show", "--config", &config]).ok("show").out, "enabled = false").unwrap();
    server.signal("TERM");
    assert!(server.ended().success());

    fs::write(&config, off.replace("enabled = false", "enabled = true")).unwrap();
    let refused = jarchy(&["serve", "--config", &config, "--listen", "127.0.0.1:0"]);
    assert!(refused.err.contains("`enabled = false`") && refused.err.contains("OCSPSigning"), "{refused:?}");
}
