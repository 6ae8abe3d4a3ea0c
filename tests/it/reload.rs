//! SIGHUP: what changes without a restart, and what a faulty config does.

use crate::harness::{Demo, contains, jarchy, openssl, text, wait_until};
use std::fs;

#[test]
fn rules_and_delegates_are_read_again_and_a_faulty_config_changes_nothing() {
    let demo = Demo::start();
    let file = demo.file("jarchy.toml");
    let config = fs::read_to_string(&file).unwrap();
    assert!(demo.ask("not-issued", &[]).contains("unauthorized (6)"));

    let unknown = config.replace("#not_issued = \"unauthorized\"", "not_issued = \"unknown\"");
    assert_ne!(config, unknown);
    fs::write(&file, &unknown).unwrap();
    demo.server.signal("HUP");
    wait_until("not issued is unknown", || contains(&demo.ask("not-issued", &[]), "not-issued.pem: unknown"));

    fs::write(&file, unknown.replace("not_issued = \"unknown\"", "not_issued = \"good\"")).unwrap();
    demo.server.signal("HUP");
    wait_until("the fault is in the log", || {
        contains(&demo.server.log(), "the config stays as it was")?;
        contains(&demo.server.log(), "unknown variant `good`")
    });
    contains(&demo.ask("not-issued", &[]), "not-issued.pem: unknown").unwrap();

    // The demo's CA certificate does not allow it to sign OCSP responses itself.
    let by_the_ca = unknown.replace("certificate = \"ocsp.pem\"\nkey = \"ocsp.key\"\n", "");
    assert_ne!(by_the_ca, unknown);
    fs::write(&file, by_the_ca).unwrap();
    demo.server.signal("HUP");
    wait_until("the fault is in the log", || contains(&demo.server.log(), "keyUsage without digitalSignature"));

    fs::write(&file, unknown.replace("#responder_id = \"by-key\"", "responder_id = \"by-name\"")).unwrap();
    demo.server.signal("HUP");
    wait_until("the signer is named", || {
        let said = demo.ask("good", &["-resp_text"]);
        contains(&said, "good.pem: good")?;
        contains(&said, "Responder Id: O = Jarchy Demo, CN = Jarchy Demo OCSP")
    });
}

/// A delegate of the demo's CA, `next.pem`, without id-pkix-ocsp-nocheck.
fn make_next_delegate(demo: &Demo) {
    let [key, request, extensions, certificate] =
        ["next.key", "next.csr", "next.cnf", "next.pem"].map(|name| demo.file(name));
    fs::write(&extensions, "keyUsage = critical, digitalSignature\nextendedKeyUsage = OCSPSigning\n").unwrap();
    let new = ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Next OCSP", "-keyout", &key];
    openssl(&[&new[..], &["-out", &request]].concat()).ok("req");
    let (ca, ca_key) = (demo.file("ca.pem"), demo.file("ca.key"));
    let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-set_serial", "0x5EC0DE"];
    openssl(&[&sign[..], &["-days", "30", "-extfile", &extensions, "-out", &certificate]].concat()).ok("x509");
}

#[test]
fn ocsp_56_a_delegate_that_the_ca_revokes_signs_no_more_and_one_without_nocheck_is_spoken_of() {
    let mut demo = Demo::start();
    demo.operator(&["add", &demo.file("ocsp.pem")]).ok("add");
    wait_until("good", || contains(&demo.ask("good", &[]), "good.pem: good"));
    demo.operator(&["hold", &demo.file("ocsp.pem")]).ok("hold");
    wait_until("nobody is left to sign", || contains(&demo.ask("good", &[]), "trylater (3)"));
    wait_until("health says so", || contains(&demo.server.log(), "the CA has revoked the OCSP certificate of"));
    demo.operator(&["release", &demo.file("ocsp.pem")]).ok("release");
    wait_until("it signs again", || contains(&demo.ask("good", &[]), "good.pem: good"));

    make_next_delegate(&demo);
    let file = demo.config();
    let config = fs::read_to_string(&file).unwrap();
    let next = "\n[[issuer.ocsp.delegate]]\ncertificate = \"next.pem\"\nkey = \"next.key\"\n\n[issuer.crl]\n";
    let both = config.replace("\n[issuer.crl]\n", next);
    assert_ne!(config, both);
    fs::write(&file, &both).unwrap();
    demo.server.signal("HUP");
    wait_until("there is a second one", || contains(&demo.server.log(), "lacks id-pkix-ocsp-nocheck"));
    demo.operator(&["revoke", &demo.file("ocsp.pem"), "--reason", "key-compromised"]).ok("revoke");
    let by_the_next = |demo: &Demo| {
        let said = demo.ask("good", &["-resp_text"]);
        contains(&said, "good.pem: good")?;
        contains(&said, "Next OCSP")
    };
    wait_until("the second one signs", || by_the_next(&demo));
    demo.restart();
    by_the_next(&demo).unwrap();

    fs::write(&file, both.replace("#profile = \"private\"", "profile = \"tls-br\"")).unwrap();
    demo.server.signal("HUP");
    wait_until("tls-br refuses it (BR-18)", || contains(&demo.server.log(), "which CAs for TLS must give it"));
    by_the_next(&demo).unwrap();

    let (dir, ca) = (demo.scratch("init"), demo.file("ca.pem"));
    let (certificate, key) = (demo.file("next.pem"), demo.file("next.key"));
    let init = ["init", "--dir", text(&dir), "--issuer", "main", "--ca-cert", &ca];
    let said = jarchy(&[&init[..], &["--ocsp-cert", &certificate, "--ocsp-key", &key]].concat()).ok("init");
    contains(&said.out, "lacks id-pkix-ocsp-nocheck").unwrap();
}
