//! SIGHUP: what changes without a restart, and what a faulty config does.

use crate::harness::{Demo, contains, wait_until};
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
