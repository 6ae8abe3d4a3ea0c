//! The commands on the issuance database, from their command line to what they say and leave behind.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::{add::Add, hold::Hold, release::Release, revoke::Revoke, status::Status};
use crate::config::Config;
use crate::pki::{Certificate, IssuerName, Reason, Time};
use crate::registry::testing::{Case, TestCa, audit, on_each_database, pem};
use crate::registry::{NewCertificate, Registry};
use clap::{CommandFactory, Parser};
use serde_json::Value;
use std::path::{Path, PathBuf};

#[derive(Parser)]
enum Cli {
    Add(Add),
    Hold(Hold),
    Release(Release),
    Revoke(Revoke),
    Status(Status),
}

struct Desk {
    /// For files.
    dir: tempfile::TempDir,
    _case: Case,
    registry: Registry,
    ca: TestCa,
    name: IssuerName,
    config: Config,
}

/// A config for the issuer of these tests, with `more` settings of it.
fn config(more: &str) -> Config {
    let text =
        format!("[[issuer]]\nname = \"demo\"\ncertificate = \"ca.pem\"\n{more}\n[issuer.crl]\nkey = \"ca.key\"\n");
    Config::from_text(&text, Path::new("jarchy.toml")).unwrap()
}

impl Desk {
    async fn new(case: Case) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&case.place).await.unwrap();
        let ca = TestCa::new("Test CA");
        let name: IssuerName = "demo".parse().unwrap();
        registry.add_issuer(&name, &ca.certificate).await.unwrap();
        Self { dir, _case: case, registry, ca, name, config: config("") }
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    async fn issued(&self, serial: &[u8], years: (i32, i32), holder: Option<&str>) -> Certificate {
        let certificate = self.ca.issue(serial, years);
        let new = NewCertificate { holder: holder.map(str::to_owned), ..NewCertificate::new(&self.name, &certificate) };
        self.registry.add(&[new], &audit()).await.unwrap().remove(0).unwrap();
        certificate
    }

    /// Runs a command line of words; what it printed, and its error if it failed.
    async fn run(&self, words: &[&str]) -> (String, Option<String>) {
        let mut out = Vec::new();
        let outcome = match Cli::try_parse_from(["jarchy"].iter().chain(words)) {
            Err(refused) => return (String::new(), Some(refused.to_string())),
            Ok(Cli::Add(command)) => command.run(&self.registry, &mut out).await,
            Ok(Cli::Hold(command)) => command.run(&self.registry, &self.config, &mut out).await,
            Ok(Cli::Release(command)) => command.run(&self.registry, &mut out).await,
            Ok(Cli::Revoke(command)) => command.run(&self.registry, &mut out).await,
            Ok(Cli::Status(command)) => command.run(&self.registry, &mut out).await,
        };
        (String::from_utf8(out).unwrap(), outcome.err().map(|error| format!("{error:#}")))
    }

    async fn said(&self, words: &[&str]) -> String {
        let (out, error) = self.run(words).await;
        assert_eq!(error, None, "{words:?}");
        out
    }

    async fn refused(&self, words: &[&str]) -> String {
        self.run(words).await.1.unwrap_or_else(|| panic!("{words:?} was not refused"))
    }

    async fn json(&self, serial: &str) -> Value {
        serde_json::from_str(&self.said(&["status", serial, "--json"]).await).unwrap()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

on_each_database! {
    revoke_says_what_was_done_and_leaves_it_in_the_database
    what_is_revoked_already_changes_only_by_update
    bad_orders_are_refused_with_the_way_out
    hold_and_release_and_a_hold_that_becomes_final
    rev_14_a_holder_loses_what_has_not_begun_too_and_the_expired_is_counted
    a_folder_is_taken_in_except_for_what_is_named
    a_certificate_that_names_the_ca_but_not_its_signature_is_refused
    files_given_by_name_must_be_certificates
    revoking_by_file_finds_the_issuer_and_refuses_strangers
    status_is_for_people
    br_15_where_the_profile_knows_no_hold_there_is_none
}

#[test]
fn each_command_shows_an_example() {
    let command = Cli::command();
    command.clone().debug_assert();
    for mut sub in command.get_subcommands().cloned() {
        let help = sub.render_long_help().to_string();
        assert!(help.contains(&format!("  jarchy {} ", sub.get_name())), "{help}");
    }
}

async fn revoke_says_what_was_done_and_leaves_it_in_the_database(case: Case) {
    let desk = Desk::new(case).await;
    desk.issued(&[0x0a, 0x1b], (2026, 2027), None).await;
    let said = desk
        .said(&[
            "revoke",
            "0x0a1b",
            "--reason",
            "token-lost",
            "--at",
            "2026-11-02T10:00:00Z",
            "--invalid-since",
            "2026-11-01",
            "--by",
            "ra",
            "--received",
            "2026-11-02T09:00:00+02:00",
        ])
        .await;
    assert_eq!(
        said,
        "revoked 0A1B (demo) reason keyCompromise at 2026-11-02T10:00:00Z, invalid since 2026-11-01T00:00:00Z\n"
    );
    let status = desk.json("dec:2587").await;
    assert_eq!(status["status"], "revoked");
    assert_eq!(status["reason"], "keyCompromise");
    assert_eq!(status["revoked_at"], "2026-11-02T10:00:00Z");
    let event = &status["events"][1];
    assert_eq!((&event["kind"], &event["actor"]), (&"revoke".into(), &"ra".into()));
    assert_eq!(event["received_at"], "2026-11-02T07:00:00Z");
    assert_eq!(event["changed"]["reason"]["after"], "keyCompromise");
}

async fn what_is_revoked_already_changes_only_by_update(case: Case) {
    let desk = Desk::new(case).await;
    desk.issued(&[1], (2026, 2027), None).await;
    desk.said(&["revoke", "01", "--reason", "superseded", "--at", "2026-11-02"]).await;
    let before = desk.json("01").await;
    let refused = desk.refused(&["revoke", "01", "--reason", "keyCompromise"]).await;
    assert!(refused.contains("revoked since 2026-11-02T00:00:00Z (superseded) already; --update"), "{refused}");
    assert_eq!(desk.json("01").await, before);

    let said = desk.said(&["revoke", "01", "--update", "--reason", "keyCompromise", "--by", "office"]).await;
    assert_eq!(said, "updated 01 (demo) reason keyCompromise at 2026-11-02T00:00:00Z\n");
    let said = desk.said(&["revoke", "01", "--update", "--invalid-since", "2026-10-01"]).await;
    assert!(said.contains("reason keyCompromise") && said.contains("invalid since 2026-10-01T00:00:00Z"), "{said}");
    let after = desk.json("01").await;
    assert_eq!(after["events"][2]["actor"], "office");
    assert_eq!(after["events"][2]["changed"]["reason"]["before"], "superseded");
    assert!(desk.said(&["revoke", "01", "--update", "--reason", "keyCompromise"]).await.starts_with("unchanged"));
    assert!(desk.refused(&["revoke", "01", "--update"]).await.contains("say what changes"));
    desk.issued(&[2], (2026, 2027), None).await;
    assert!(desk.refused(&["revoke", "02", "--update", "--reason", "ceased"]).await.contains("leave --update out"));
}

async fn bad_orders_are_refused_with_the_way_out(case: Case) {
    let desk = Desk::new(case).await;
    desk.issued(&[1], (2026, 2027), None).await;
    for (words, expected) in [
        (&["revoke", "01", "--reason", "certificateHold"][..], "jarchy hold"),
        (&["revoke", "01", "--reason", "lost"], "token-lost"),
        (&["revoke", "01", "--reason", "removeFromCRL"], "use a name of RFC 5280"),
        (&["revoke", "01"], "--reason"),
        (&["revoke", "--reason", "ceased"], "--holder"),
        (&["revoke", "99", "--reason", "ceased"], "no certificate with serial 99 in the issuance database"),
        (&["revoke", "nonsense", "--reason", "ceased"], "there is no file of that name"),
        (&["revoke", "01", "--reason", "ceased", "--at", "2199-01-01"], "lies ahead"),
        (&["revoke", "01", "--reason", "ceased", "--at", "tomorrow"], "is no time"),
        (&["revoke", "01", "--reason", "ceased", "--by", " "], "--by needs"),
        (&["revoke", "01", "--reason", "ceased", "--issuer", "nobody"], "there are: demo"),
        (&["revoke", "--holder", "nobody", "--reason", "ceased"], "no certificate of holder \"nobody\""),
        (&["release", "01"], "is not on hold, it is good"),
        (&["status", "99"], "`jarchy add`"),
    ] {
        let refused = desk.refused(words).await;
        assert!(refused.contains(expected), "{words:?}: {refused}");
    }
    assert_eq!(desk.json("01").await["status"], "good");
}

async fn hold_and_release_and_a_hold_that_becomes_final(case: Case) {
    let desk = Desk::new(case).await;
    let certificate = desk.issued(&[1], (2026, 2027), None).await;
    let file = desk.file("one.pem", pem(&certificate));
    assert!(desk.said(&["hold", text(&file)]).await.starts_with("put 01 (demo) on hold at 20"));
    assert_eq!(desk.json("01").await["on_hold"], true);
    assert!(desk.refused(&["hold", "01"]).await.contains("on hold since"));
    assert_eq!(desk.said(&["release", "01"]).await, "released 01 (demo) from hold: it is good again\n");
    desk.said(&["hold", "01"]).await;
    let since = desk.json("01").await["revoked_at"].clone();
    desk.said(&["revoke", "01", "--reason", "key-compromised"]).await;
    let status = desk.json("01").await;
    assert_eq!((&status["revoked_at"], &status["on_hold"]), (&since, &false.into()));
    assert!(desk.refused(&["release", "01"]).await.contains("which is final"));
    assert!(desk.refused(&["hold", "01"]).await.contains("cannot be put on hold"));
}

async fn rev_14_a_holder_loses_what_has_not_begun_too_and_the_expired_is_counted(case: Case) {
    let desk = Desk::new(case).await;
    for (serial, years) in
        [(1, (2026, 2090)), (2, (2080, 2090)), (3, (2020, 2021)), (4, (2026, 2090)), (5, (2026, 2090))]
    {
        desk.issued(&[serial], years, Some("EMP-1")).await;
    }
    desk.issued(&[6], (2026, 2090), Some("EMP-2")).await;
    desk.said(&["revoke", "04", "--reason", "superseded"]).await;
    desk.said(&["hold", "05"]).await;
    let said = desk.said(&["revoke", "--holder", "EMP-1", "--reason", "ceased"]).await;
    assert_eq!(said.matches("revoked 0").count(), 3, "{said}");
    assert!(said.contains("holder EMP-1: 3 revoked, 2 left as they were (1 revoked before, 1 expired)"), "{said}");
    let statuses: Value = serde_json::from_str(&desk.said(&["status", "--holder", "EMP-1", "--json"]).await).unwrap();
    let mut reasons: Vec<_> =
        statuses.as_array().unwrap().iter().map(|one| (one["serial"].to_string(), one["reason"].clone())).collect();
    reasons.sort_by_key(|(serial, _)| serial.clone());
    let reasons: Vec<_> = reasons.iter().map(|(_, reason)| reason.as_str()).collect();
    let ceased = Some(Reason::CessationOfOperation.name());
    assert_eq!(reasons, [ceased, ceased, None, Some("superseded"), ceased]);
    assert_eq!(desk.json("06").await["status"], "good");
    let nothing = desk.refused(&["revoke", "--holder", "EMP-1", "--reason", "ceased"]).await;
    assert!(nothing.contains("nothing to revoke: 4 certificates are revoked already, 1 have expired"), "{nothing}");
}

async fn a_folder_is_taken_in_except_for_what_is_named(case: Case) {
    let desk = Desk::new(case).await;
    let issue = |serial: u8| desk.ca.issue(&[serial], (2026, 2027));
    desk.file("in/a.pem", pem(&issue(1)) + &pem(&issue(2)));
    desk.file("in/deep/er/b.der", issue(3).der());
    desk.file("in/deep/c.CRT", pem(&issue(4)));
    desk.file("in/no-extension", format!("0 s:CN=holder\n{}", pem(&issue(5))));
    desk.file("in/also-none", issue(6).der());
    desk.file("in/ca.pem", pem(&desk.ca.certificate));
    desk.file("in/a.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    desk.file("in/k.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    desk.file("in/README", "nothing to see");
    desk.file("in/list.crl", [0x30, 0x82, 0, 1, 0]);
    desk.file("in/broken.pem", "-----BEGIN CERTIFICATE-----\nMIIB!!\n-----END CERTIFICATE-----\n");
    desk.file("in/cut.der", &issue(7).der()[..100]);
    desk.file("in/half.pem", pem(&issue(8)) + "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n");
    desk.file("in/empty.cer", "");
    desk.file("in/stranger.pem", pem(&TestCa::new("Another CA").issue(&[9], (2026, 2027))));
    desk.file("in/forged.pem", pem(&TestCa::new("Test CA").issue(&[10], (2026, 2027))));
    let folder = desk.dir.path().join("in");

    let (said, error) = desk.run(&["add", text(&folder), "--holder", "EMP-1", "--medium", "cloud", "--by", "ra"]).await;
    assert!(said.contains("added 7 certificates (2 key files passed over, 1 of the CA itself passed over)"), "{said}");
    for (file, reason) in [
        ("broken.pem", "not a certificate"),
        ("cut.der", "not a certificate"),
        ("half.pem, certificate 2", "not a certificate"),
        ("empty.cer", "the file is empty"),
        ("stranger.pem", "issued by \"CN=Another CA\", which is no issuer of this database (known: demo)"),
        ("forged.pem", "which is no issuer of this database"),
    ] {
        let line = said.lines().find(|line| line.starts_with("not added: ") && line.contains(file));
        assert!(line.is_some_and(|line| line.contains(reason)), "{file}: {said}");
    }
    assert_eq!(said.matches("not added:").count(), 6, "{said}");
    assert!(error.unwrap().starts_with("6 files or certificates were not added"));
    let five = desk.json("05").await;
    assert_eq!((&five["holder"], &five["medium"]), (&"EMP-1".into(), &"cloud".into()));
    assert_eq!(five["events"][0]["actor"], "ra");

    let (said, _) = desk.run(&["add", text(&folder)]).await;
    assert!(said.contains("added 0 certificates (7 already there, "), "{said}");
}

async fn a_certificate_that_names_the_ca_but_not_its_signature_is_refused(case: Case) {
    let desk = Desk::new(case).await;
    let mut forged = desk.ca.issue(&[1], (2026, 2027)).der().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let file = desk.file("forged.der", forged);
    let (said, error) = desk.run(&["add", text(&file)]).await;
    assert!(said.contains("that CA's key did not sign it"), "{said}");
    assert!(error.unwrap().starts_with("1 file or certificate was not added"));
}

async fn files_given_by_name_must_be_certificates(case: Case) {
    let desk = Desk::new(case).await;
    let key = desk.file("a.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let (said, error) = desk.run(&["add", text(&key)]).await;
    assert!(said.contains("not a certificate but a private key") && error.is_some(), "{said}");
    let missing = desk.refused(&["add", "/nowhere/at-all.pem"]).await;
    assert!(missing.contains("cannot read /nowhere/at-all.pem"), "{missing}");
    let two = desk.file("two.pem", pem(&desk.ca.issue(&[1], (2026, 2027))) + &pem(&desk.ca.issue(&[2], (2026, 2027))));
    assert!(desk.refused(&["add", text(&two), "--renews", "07"]).await.contains("has 2"));
    let one = desk.file("one.pem", pem(&desk.ca.issue(&[1], (2026, 2027))));
    assert_eq!(desk.said(&["add", text(&one), "--renews", "F1:2E", "--shard", "3"]).await, "added 1 certificate\n");
    let status = desk.json("01").await;
    assert_eq!((&status["renews"], &status["shard"], &status["ca"]), (&"F12E".into(), &3.into(), &false.into()));
}

async fn revoking_by_file_finds_the_issuer_and_refuses_strangers(case: Case) {
    let desk = Desk::new(case).await;
    let known = desk.file("known.pem", pem(&desk.issued(&[1], (2026, 2027), None).await));
    let unknown = desk.file("unknown.pem", pem(&desk.ca.issue(&[2], (2026, 2027))));
    let stranger = desk.file("stranger.pem", pem(&TestCa::new("Another CA").issue(&[1], (2026, 2027))));
    assert!(desk.said(&["revoke", text(&known), "--reason", "ceased"]).await.starts_with("revoked 01 (demo)"));
    let refused = desk.refused(&["revoke", text(&unknown), "--reason", "ceased"]).await;
    assert!(refused.contains("no certificate with serial 02 of issuer demo"), "{refused}");
    let refused = desk.refused(&["revoke", text(&stranger), "--reason", "ceased"]).await;
    assert!(refused.contains("stranger.pem") && refused.contains("CN=Another CA"), "{refused}");
}

async fn status_is_for_people(case: Case) {
    let desk = Desk::new(case).await;
    desk.issued(&[0x0a], (2026, 2027), Some("EMP-1")).await;
    desk.said(&["revoke", "0A", "--reason", "ceased", "--at", "2026-11-02", "--by", "ra"]).await;
    let said = desk.said(&["status", "0A"]).await;
    for words in [
        "serial    0A\n",
        "issuer    demo\n",
        "status    revoked since 2026-11-02T00:00:00Z, reason cessationOfOperation\n",
        "valid     2026-01-01T00:00:00Z to 2027-01-01T00:00:00Z\n",
        "holder    EMP-1\n",
        "issue   by tester, received 2026-11-18T",
        "revoke  by ra, effective 2026-11-02T00:00:00Z, ",
        "status good -> revoked",
    ] {
        assert!(said.contains(words), "{words:?} is not in\n{said}");
    }
    assert!(Time::default() < desk.registry.find(&"0A".parse().unwrap(), None).await.unwrap().changed_at);
}

async fn br_15_where_the_profile_knows_no_hold_there_is_none(case: Case) {
    let mut desk = Desk::new(case).await;
    desk.issued(&[1], (2026, 2030), None).await;
    desk.config = config("profile = \"tls-br\"");
    let refused = desk.refused(&["hold", "01", "--by", "helpdesk"]).await;
    assert!(refused.contains("tls-br") && refused.contains("revoke it instead"), "{refused}");
    desk.config = config("profile = \"etsi\"");
    desk.said(&["hold", "01", "--by", "helpdesk"]).await;
}
