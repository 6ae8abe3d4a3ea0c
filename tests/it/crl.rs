//! CRLs as `openssl crl`, `openssl verify` and `curl` see them.

use crate::harness::{Demo, Said, contains, openssl, run, text, wait_until};
use std::path::{Path, PathBuf};

/// Fetches a list and checks its signature; the file is PEM, which every OpenSSL reads.
fn fetch(demo: &Demo, path: &str, name: &str) -> PathBuf {
    let (der, pem) = (demo.scratch(&format!("{name}.der")), demo.scratch(name));
    demo.server.fetch(path, &der);
    let ca = demo.file("ca.pem");
    let said = openssl(&["crl", "-inform", "DER", "-in", text(&der), "-CAfile", &ca, "-out", text(&pem)]).ok("crl");
    contains(&said.all(), "verify OK").unwrap();
    pem
}

fn complete(demo: &Demo, name: &str) -> PathBuf {
    fetch(demo, "/crl/demo.crl", name)
}

/// There is one as soon as there is an older complete list that it can build on.
fn delta(demo: &Demo, name: &str) -> PathBuf {
    fetch(demo, "/crl/demo-delta.crl", name)
}

fn has_delta(demo: &Demo) -> Result<(), String> {
    contains(&demo.server.headers("/crl/demo-delta.crl", &[]), " 200 ")
}

fn shown(list: &Path) -> String {
    openssl(&["crl", "-in", text(list), "-noout", "-text"]).ok("crl -text").out
}

fn number(list: &Path) -> u64 {
    let said = openssl(&["crl", "-in", text(list), "-noout", "-crlnumber"]).ok("crl -crlnumber").out;
    let hex = said.trim().trim_start_matches("crlNumber=").trim_start_matches("0x").to_owned();
    u64::from_str_radix(&hex, 16).unwrap_or_else(|_| panic!("{said}"))
}

/// `openssl verify` of a named certificate against lists; expired ones are judged as though they were not.
fn verify(demo: &Demo, name: &str, extra: &[&str], lists: &[&Path]) -> Said {
    let (ca, certificate) = (demo.file("ca.pem"), demo.file(&format!("{name}.pem")));
    let mut arguments = vec!["verify", "-crl_check", "-CAfile", &ca];
    arguments.extend_from_slice(extra);
    for list in lists {
        arguments.extend(["-CRLfile", text(list)]);
    }
    arguments.push(&certificate);
    openssl(&arguments)
}

#[test]
fn the_complete_list_decides_in_openssl_verify() {
    let demo = Demo::start();
    let list = complete(&demo, "complete.pem");
    verify(&demo, "good", &[], &[&list]).ok("good.pem");
    for name in ["revoked-key-compromise", "on-hold"] {
        let said = verify(&demo, name, &[], &[&list]);
        assert!(!said.status.success() && said.all().contains("certificate revoked"), "{name}: {said:?}");
    }
    let text = shown(&list);
    for part in ["Version 2", "X509v3 CRL Number", "X509v3 Authority Key Identifier", "X509v3 Freshest CRL"] {
        contains(&text, part).unwrap();
    }
    let listed = |name| text.contains(&format!("Serial Number: {}", demo.serial(name)));
    assert!(listed("revoked-key-compromise") && listed("on-hold"));
    assert!(!listed("good") && !listed("not-issued") && !listed("renewal"));
    for reason in ["Key Compromise", "CA Compromise", "Affiliation Changed", "Superseded", "Cessation Of Operation"]
        .into_iter()
        .chain(["Certificate Hold", "Privilege Withdrawn", "AA Compromise", "Invalidity Date"])
    {
        contains(&text, reason).unwrap();
    }
}

#[test]
fn lists_and_issuers_certificates_are_served_as_what_they_are() {
    let demo = Demo::start();
    demo.operator(&["revoke", &demo.file("good.pem"), "--reason", "superseded"]).ok("revoke");
    wait_until("there is a delta", || has_delta(&demo));
    for (path, kind) in [
        ("/crl/demo.crl", "application/pkix-crl"),
        ("/crl/demo-delta.crl", "application/pkix-crl"),
        ("/ca/demo.cer", "application/pkix-cert"),
    ] {
        let headers = demo.server.headers(path, &[]).to_lowercase();
        for part in ["200 ok", &format!("content-type: {kind}"), "etag: \"", "content-length: "] {
            contains(&headers, part).unwrap();
        }
    }
    let (fetched, own) = (demo.scratch("ca.cer"), demo.scratch("own.cer"));
    demo.server.fetch("/ca/demo.cer", &fetched);
    openssl(&["x509", "-in", &demo.file("ca.pem"), "-outform", "DER", "-out", text(&own)]).ok("x509");
    assert_eq!(std::fs::read(fetched).unwrap(), std::fs::read(own).unwrap());
    let absent = demo.server.headers("/crl/nobody.crl", &[]);
    assert!(absent.contains(" 404 "), "{absent}");
}

#[test]
fn a_delta_completes_an_older_list_with_revocations_and_releases() {
    let demo = Demo::start();
    let old = complete(&demo, "old.pem");
    let deltas = ["-use_deltas", "-extended_crl"];
    verify(&demo, "good", &[], &[&old]).ok("good.pem before");

    demo.operator(&["revoke", &demo.file("good.pem"), "--reason", "keyCompromise"]).ok("revoke");
    demo.operator(&["release", &demo.file("on-hold.pem")]).ok("release");
    let (revoked, released) = (demo.serial("good"), demo.serial("on-hold"));
    wait_until("both stand in the delta", || {
        has_delta(&demo)?;
        let text = shown(&delta(&demo, "delta.pem"));
        contains(&text, &revoked)?;
        contains(&text, &released)?;
        contains(&text, "Remove From CRL")
    });
    let newer = delta(&demo, "delta.pem");
    contains(&shown(&newer), "X509v3 Delta CRL Indicator: critical").unwrap();
    assert!(number(&newer) > number(&old));

    let said = verify(&demo, "good", &deltas, &[&old, &newer]);
    assert!(!said.status.success() && said.all().contains("certificate revoked"), "{said:?}");
    verify(&demo, "on-hold", &deltas, &[&old, &newer]).ok("on-hold.pem, released");
    verify(&demo, "renewal", &[&deltas[..], &["-no_check_time"]].concat(), &[&old, &newer]).ok("renewal.pem");
    // Without the delta the old list knows nothing of it.
    verify(&demo, "good", &[], &[&old]).ok("good.pem by the old list");
}

#[test]
fn a_revocation_changes_the_delta_and_the_complete_list() {
    let demo = Demo::start();
    let before = number(&complete(&demo, "before.pem"));
    demo.operator(&["revoke", &demo.file("good.pem"), "--reason", "details-changed"]).ok("revoke");
    let serial = demo.serial("good");
    wait_until("there is a delta", || has_delta(&demo));
    for path in ["/crl/demo.crl", "/crl/demo-delta.crl"] {
        wait_until(path, || contains(&shown(&fetch(&demo, path, "list.pem")), &serial));
    }
    let (after, delta) = (complete(&demo, "after.pem"), delta(&demo, "delta.pem"));
    assert!(number(&after) > before);
    assert_eq!(number(&after), number(&delta), "one revision, one number");
    let said = verify(&demo, "good", &[], &[&after]);
    assert!(said.all().contains("certificate revoked"), "{said:?}");
}

#[test]
fn each_revision_stays_under_its_number() {
    let demo = Demo::start();
    let first = complete(&demo, "first.pem");
    demo.operator(&["revoke", &demo.file("good.pem"), "--reason", "ceased"]).ok("revoke");
    wait_until("a newer list", || {
        let newer = number(&complete(&demo, "newer.pem"));
        if newer > number(&first) { Ok(()) } else { Err(format!("still {newer}")) }
    });
    for list in [first, complete(&demo, "second.pem")] {
        let again = fetch(&demo, &format!("/crl/demo/{}.crl", number(&list)), "again.pem");
        assert_eq!(std::fs::read(again).unwrap(), std::fs::read(&list).unwrap());
    }
}

#[test]
fn numbers_go_on_after_a_restart_and_never_back() {
    let mut demo = Demo::start();
    let first = number(&complete(&demo, "first.pem"));
    for (round, name) in ["good", "renewal"].into_iter().enumerate() {
        demo.restart();
        let restarted = number(&complete(&demo, "restarted.pem"));
        assert!(restarted >= first, "round {round}: {restarted} after {first}");
        demo.operator(&["revoke", &demo.file(&format!("{name}.pem")), "--reason", "superseded"]).ok("revoke");
        let serial = demo.serial(name);
        wait_until("the revocation is listed", || contains(&shown(&complete(&demo, "list.pem")), &serial));
        let listed = number(&complete(&demo, "list.pem"));
        assert!(listed > restarted, "round {round}: {listed} after {restarted}");
    }
    // What was listed before the restarts is listed still.
    contains(&shown(&complete(&demo, "list.pem")), &demo.serial("good")).unwrap();
}

#[test]
fn curl_gets_304_for_a_list_that_it_has() {
    let demo = Demo::start();
    let headers = demo.server.headers("/crl/demo.crl", &[]).to_lowercase();
    let etag = headers.lines().find_map(|line| line.strip_prefix("etag: ")).expect("an ETag").trim().to_owned();
    let again = demo.server.headers("/crl/demo.crl", &["-H", &format!("If-None-Match: {etag}")]);
    assert!(again.contains(" 304 ") && again.ends_with("body 0"), "{again}");
    let head = run("curl", &["-fsSI", &format!("{}/crl/demo.crl", demo.server.url)]).ok("HEAD").out;
    contains(&head.to_lowercase(), &format!("etag: {etag}")).unwrap();
}
