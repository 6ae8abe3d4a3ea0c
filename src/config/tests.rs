#![allow(clippy::unwrap_used)]
use super::*;
use crate::pki::{Reason, Time};

fn sample(name: &str) -> Config {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/config");
    Config::load(&folder.join(name)).unwrap_or_else(|error| panic!("{error}"))
}

/// What is said of `text`, as a person reads it.
fn faults(text: &str) -> String {
    let diagnostics = Config::parse(text, Path::new("/etc/jarchy/jarchy.toml")).unwrap_err();
    ConfigError::Invalid { path: "jarchy.toml".into(), diagnostics }.to_string()
}

const CA: &str = "[[issuer]]\nname = \"ca\"\ncertificate = \"ca.pem\"\n";

#[test]
fn the_least_config_gets_every_default() {
    let config = sample("minimal.toml");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.admin.unwrap().to_string(), "127.0.0.1:9180");
    assert_eq!(config.server.public_url, None);
    assert_eq!((config.server.grace, config.server.drain), (Duration::from_secs(6), Duration::from_secs(20)));
    assert_eq!(config.server.trusted_proxies, []);
    assert_eq!(config.server.limits.max_connections.get(), 10_000);
    assert_eq!(config.log, Log { format: Format::Text, level: "info".to_owned() });
    assert_eq!(config.database.poll, Duration::from_millis(20));
    assert_eq!(config.database.max_staleness, Duration::from_secs(60));

    let issuer = config.issuer("ca").unwrap();
    let crl = issuer.crl.as_ref().unwrap();
    assert_eq!(issuer.profile, Profile::Private);
    assert_eq!(issuer.ocsp.signers, [OcspSigner::Ca { key: crl.key.clone() }]);
    assert_eq!(issuer.ocsp.lifetime, HOUR);
    let Ocsp { nonce, live_rate, live_rate_per_client, presign, presign_rate, .. } = issuer.ocsp;
    assert_eq!((nonce, live_rate, live_rate_per_client), (Nonce::Live, 1_000, 100));
    assert_eq!((presign, presign_rate.get()), (Presign::Hot, 2_000));
    assert_eq!((crl.interval, crl.lifetime), (6 * HOUR, 48 * HOUR));
    assert_eq!((crl.delta_lifetime, crl.delta_window), (12 * HOUR, 48 * HOUR));
    assert_eq!((crl.debounce, crl.max_delay), (Duration::from_millis(200), None));
}

#[test]
fn paths_start_from_the_folder_of_the_file() {
    let config = sample("answer-only.toml");
    let folder = config.file.parent().unwrap();
    assert!(folder.is_absolute());
    assert_eq!(config.database.place.to_string(), folder.join("issuance.db").display().to_string());
    assert_eq!(config.state.path, folder.join("jarchy-state.db"));
    assert_eq!(config.issuers[0].certificate, folder.join("ca.pem"));
    let delegate =
        OcspSigner::Delegate { certificate: "/etc/jarchy/ocsp.pem".into(), key: "/etc/jarchy/ocsp.key".into() };
    assert_eq!(config.issuers[0].ocsp.signers, [delegate]);
    assert_eq!(config.issuers[0].crl, None);
    // Nobody could see that it is not ready.
    assert_eq!((config.server.admin, config.server.grace), (None, Duration::ZERO));
}

#[test]
fn profiles_set_what_is_left_open() {
    let config = sample("two-issuers.toml");
    let tls = config.issuer("tls").unwrap();
    assert_eq!((tls.ocsp.lifetime, tls.ocsp.max_age), (48 * HOUR, HOUR));
    assert_eq!(tls.ocsp.max_age_uncertain.as_secs(), 60);
    assert_eq!((tls.hold, tls.ocsp.not_issued), (Hold::Refused, NotIssued::Unauthorized));
    let national = config.issuer("signatures_2026").unwrap();
    assert_eq!((national.hold, national.ocsp.not_issued), (Hold::Allowed, NotIssued::Unknown));
    let crl = national.crl.as_ref().unwrap();
    assert_eq!((crl.interval, crl.lifetime), (HOUR, 24 * HOUR));
}

#[test]
fn what_is_no_network_is_no_proxy() {
    for wrong in ["10.0.0.0/33", "10.0.0.0/", "2001:db8::/129", "::ffff:10.0.0.1", "localhost", "", "10.0.0.1/-1"] {
        let shown = faults(&format!("{CA}[server]\ntrusted_proxies = [\"127.0.0.1\", \"{wrong}\"]\n"));
        assert!(shown.contains(&format!("{wrong:?} is neither an address nor a network")), "{shown}");
    }
}

#[test]
fn every_setting_is_taken_over() {
    let config = sample("all-settings.toml");
    let Server { listen, admin, public_url, threads, grace, drain, trusted_proxies, limits } = config.server;
    assert_eq!((listen.to_string().as_str(), admin.unwrap().port(), threads.get()), ("[::]:8888", 8889, 3));
    assert_eq!(public_url.as_deref(), Some("http://pki.example.org:8888/status"));
    let proxies = [("192.0.2.7", 32), ("10.0.0.0", 8), ("2001:db8::", 32), ("::1", 128)];
    assert_eq!(trusted_proxies, proxies.map(|(address, bits)| (address.parse().unwrap(), bits)));
    assert_eq!(grace.as_secs(), 12);
    assert_eq!((drain.as_secs(), limits.max_connections.get()), (5, 500));
    let timeouts = [limits.header_timeout, limits.idle_timeout, limits.body_timeout, limits.write_timeout];
    assert_eq!(timeouts.map(|timeout| timeout.as_secs()), [4, 6, 3, 70]);
    assert_eq!((limits.max_connections_per_address.get(), limits.ocsp_cache_mib.get()), (50, 8));
    assert_eq!(config.log, Log { format: Format::Json, level: "warn,jarchy::crl=debug".to_owned() });
    assert_eq!((config.database.poll.as_millis(), config.database.max_staleness.as_secs()), (50, 120));
    assert_eq!(config.database.reconcile.as_secs(), 12 * 3_600);
    assert!(config.database.place.to_string().ends_with("config/db/issued.db"));
    assert_eq!(config.state.path, Path::new("/var/lib/jarchy/state.db"));
    assert_eq!(config.state.snapshot_interval.as_secs(), 300);

    let [issuer] = &config.issuers[..] else { panic!("one issuer") };
    let Ocsp { lifetime, max_age, max_age_uncertain, not_issued, nonce, .. } = issuer.ocsp;
    let Ocsp { not_yet_valid, responder_id, retention, archive_cutoff, cert_hash, invalidity_date, crl_id, .. } =
        issuer.ocsp;
    let signers = &issuer.ocsp.signers;
    let requestors = issuer.ocsp.requestors.as_ref().unwrap();
    assert!(requestors[0].ends_with("config/requestors.pem") && requestors[1] == Path::new("/etc/jarchy/ca.pem"));
    let ages = [lifetime, max_age, max_age_uncertain].map(|age| age.as_secs());
    assert_eq!((issuer.profile, issuer.hold), (Profile::Etsi, Hold::Refused));
    assert_eq!((issuer.ocsp.live_rate, issuer.ocsp.live_rate_per_client), (50, 7));
    assert_eq!((issuer.ocsp.presign, issuer.ocsp.presign_rate.get()), (Presign::All, 300));
    assert_eq!((ages, not_issued, nonce), ([7_200, 300, 20], NotIssued::Revoked, Nonce::CachedReply));
    let at = Time::from_rfc3339("2026-11-22T06:17:54Z").unwrap();
    let compromised = Revocation { at, reason: Reason::KeyCompromise, invalidity_date: None };
    assert_eq!((issuer.ca_revoked, issuer.end_of_life), (Some(compromised), true));
    assert_eq!((not_yet_valid, responder_id), (NotYetValid::Unknown, ResponderId::ByName));
    assert_eq!(retention.unwrap().as_secs() / 86_400, 3_652);
    assert_eq!((archive_cutoff, cert_hash, invalidity_date, crl_id), (false, false, false, true));
    assert_eq!(signers.len(), 2);
    let crl = issuer.crl.as_ref().unwrap();
    let times = [crl.interval, crl.lifetime, crl.delta_lifetime, crl.delta_window].map(|time| time.as_secs() / 60);
    assert_eq!(times, [30, 720, 90, 360]);
    assert_eq!((crl.debounce.as_millis(), crl.max_delay.unwrap().as_secs()), (100, 2));
    assert_eq!(crl.max_age.as_secs(), 45);
    let folder = config.file.parent().unwrap();
    let places: Vec<&Path> = crl.publish.iter().map(|to| to.directory.as_path()).collect();
    assert_eq!(places, [Path::new("/srv/www/crl"), &folder.join("copies")]);
}

#[test]
fn lists_go_to_one_place_once() {
    let publish = "[[issuer.crl.publish]]\ndirectory = \"www\"\n";
    let shown = faults(&format!("{CA}[issuer.crl]\nkey = \"ca.key\"\n{publish}{publish}"));
    assert!(shown.contains(":9:13: ") && shown.contains("/etc/jarchy/www already"), "{shown}");
}

#[test]
fn an_unknown_setting_is_shown_in_its_line_with_what_there_is() {
    let text = "[server]\nlisten = \"127.0.0.1:80\"\nlissen = 1\n";
    let shown = faults(text);
    assert!(shown.starts_with("jarchy.toml:3:1: unknown field `lissen`, expected one of `listen`, `admin`"), "{shown}");
    assert!(shown.ends_with("\n  |\n3 | lissen = 1\n  | ^^^^^^"), "{shown}");
}

#[test]
fn wrong_types_and_spellings_are_shown_where_they_stand() {
    for (text, at, says) in [
        ("[server]\nlisten = [8080]\n", ":2:10: ", "expected a string"),
        ("[database]\npoll = \"fast\"\n", ":2:8: ", "\"200ms\""),
        ("[[issuer]]\nname = \"é\"\ncertificate = 'é'\nprofile = \"webtrust\"\n", ":4:11: ", "`tls-br`"),
        ("[server\n", ":1:8: ", "]"),
        ("[[issuer]]\ncertificate = \"ca.pem\"\n", ":1:1: ", "missing field `name`"),
    ] {
        let shown = faults(text);
        assert!(shown.contains(at) && shown.contains(says), "{text}\n{shown}");
    }
}

#[test]
fn every_contradiction_is_found_at_once_in_the_order_of_the_file() {
    let shown = faults(
        r#"[server]
listen = "localhost:8080"
admin = ":9180"
public_url = "https://pki.example.org"
[log]
level = "jarchy=loud"
[database]
max_staleness = "1ms"
[[issuer]]
name = "Main CA"
certificate = "ca.pem"
profile = "tls-br"
hold = "allowed"
[issuer.ocsp]
certificate = "ocsp.pem"
lifetime = "1h"
[issuer.crl]
key = "ca.key"
interval = "12h"
lifetime = "6h"
debounce = "3s"
"#,
    );
    let places: Vec<&str> = shown.lines().filter_map(|line| line.strip_prefix("jarchy.toml:")).collect();
    let lines: Vec<&str> = places.iter().filter_map(|place| place.split(':').next()).collect();
    assert_eq!(lines, ["2", "3", "4", "6", "8", "10", "13", "15", "16", "20", "21"], "{shown}");
    assert!(shown.contains("= choose a time from 8h to 7days"), "{shown}");
}

#[test]
fn an_issuer_without_a_key_is_told_both_ways_out() {
    let shown = faults(CA);
    assert!(shown.starts_with("jarchy.toml:1:1: this issuer has no key to sign with"), "{shown}");
    assert!(shown.contains("[issuer.ocsp]") && shown.contains("[issuer.crl]"), "{shown}");
    let shown = faults("");
    assert!(shown.starts_with("jarchy.toml:1:1: there is no [[issuer]]"), "{shown}");
}

#[test]
fn an_issuer_with_crls_only_needs_no_key_for_ocsp() {
    let config = |settings: &str| format!("{CA}[issuer.ocsp]\nenabled = false\n{settings}\n");
    let only = config("[issuer.crl]\nkey = \"ca.key\"");
    let only = Config::parse(&only, Path::new("/etc/jarchy/jarchy.toml")).unwrap();
    assert!(only.issuers[0].ocsp.signers.is_empty() && only.issuers[0].crl.is_some());
    let shown = faults(&config(""));
    assert!(shown.starts_with("jarchy.toml:5:11: this issuer neither answers OCSP nor publishes CRLs"), "{shown}");
    let shown = faults(&config("key = \"ca.key\"\n[issuer.crl]\nkey = \"ca.key\""));
    assert!(shown.starts_with("jarchy.toml:5:11: a key for OCSP responses is named"), "{shown}");
}

#[test]
fn signed_requests_are_asked_for_together_with_those_who_may_sign_them() {
    let ocsp = |settings: &str| format!("{CA}[issuer.ocsp]\nkey = \"ca.key\"\n{settings}\n");
    let shown = faults(&ocsp("require_signed = true"));
    assert!(shown.starts_with("jarchy.toml:6:18: only signed requests are answered, but nobody"), "{shown}");
    let shown = faults(&ocsp("require_signed = false\ntrusted_requestors = [\"a.pem\"]"));
    assert!(shown.starts_with("jarchy.toml:7:22: requests need not be signed"), "{shown}");
    let open = Config::parse(&ocsp("require_signed = false"), Path::new("/etc/jarchy/jarchy.toml")).unwrap();
    assert_eq!(open.issuers[0].ocsp.requestors, None);
}

#[test]
fn two_issuers_of_one_name_are_refused() {
    let one = format!("{CA}[issuer.crl]\nkey = \"ca.key\"\n");
    let shown = faults(&format!("{one}{one}"));
    let expected = "jarchy.toml:7:8: an issuer called \"ca\" already stands in line 2";
    assert!(shown.starts_with(expected), "{shown}");
}

#[test]
fn lists_never_lapse_between_two_slots() {
    let crl = |settings: &str| faults(&format!("{CA}[issuer.crl]\nkey = \"ca.key\"\n{settings}\n"));
    // The default lifetime is 48 h.
    let shown = crl("interval = \"3d\"");
    assert!(shown.starts_with("jarchy.toml:6:12: a list that lives 2days would lapse"), "{shown}");
    let shown = crl("delta_lifetime = \"6h\"");
    assert!(shown.starts_with("jarchy.toml:6:18: a delta cannot live 6h"), "{shown}");
    assert!(crl("lifetime = \"48h 500ms\"").contains("whole seconds"));
    assert!(crl("interval = \"584542000000years\"").contains("out of range"));
}

#[test]
fn crl_76_lists_by_kind_are_two_and_need_no_number() {
    let crl = |settings: &str| format!("{CA}[issuer.crl]\nkey = \"ca.key\"\n{settings}\n");
    let url = "shard_url = \"http://crl.example/{n}.crl\"\n";
    let config = Config::parse(&crl(&format!("{url}shard_by = \"kind\"")), Path::new("/etc/jarchy/jarchy.toml"));
    let shards = config.unwrap().issuers[0].crl.as_ref().unwrap().shards.clone().unwrap();
    assert_eq!((shards.count.get(), shards.by), (2, ShardBy::Kind));
    let shown = faults(&crl(&format!("{url}shards = 3\nshard_by = \"kind\"")));
    assert!(shown.starts_with("jarchy.toml:7:10: 3 shards cannot be made by kind"), "{shown}");
    let shown = faults(&crl("shard_by = \"kind\""));
    assert!(shown.starts_with("jarchy.toml:6:12: the URL of a shard"), "{shown}");
}

#[test]
fn a_missing_file_says_what_to_do() {
    let shown = Config::load(Path::new("nowhere/jarchy.toml")).unwrap_err().to_string();
    assert!(shown.starts_with("nowhere/jarchy.toml does not exist: "), "{shown}");
}

#[test]
fn carets_stand_under_what_they_mean_in_lines_that_are_not_ascii() {
    let diagnostic = Diagnostic::new("a = 1\r\né = 'ü'\r\n", 12..16, "x".to_owned(), None);
    let shown = ConfigError::Invalid { path: "f".into(), diagnostics: vec![diagnostic] }.to_string();
    assert_eq!(shown, "f:2:5: x\n  |\n2 | é = 'ü'\n  |     ^^^");
}

/// The `[database]` of a config that is otherwise in order.
fn with_database(settings: &str) -> String {
    format!("{CA}[issuer.crl]\nkey = \"ca.key\"\n[database]\n{settings}\n")
}

#[test]
fn a_database_may_be_on_a_server() {
    let config = sample("database-server.toml");
    let folder = config.file.parent().unwrap();
    assert_eq!(config.database.place.to_string(), "postgres://jarchy@db.example.org:5433/issuance");
    assert_eq!(config.database.poll, SECOND);
    let Place::Server(server) = &config.database.place else { panic!("{config:?}") };
    assert_eq!(server.credentials().password_file, Some(folder.join("db-password")));
    let (tls, file) = (server.tls(), |name: &str| Some(folder.join(name)));
    assert_eq!((tls.verify, &tls.ca_certificate), (Some(true), &file("db-ca.pem")));
    assert_eq!((&tls.client_certificate, &tls.client_key), (&file("db-client.pem"), &file("db-client.key")));
}

#[test]
fn a_database_on_a_server_is_shown_without_its_password() {
    let text = with_database("url = \"postgres://ca:s3cret@db.example.org/issuance\"");
    let config = Config::parse(&text, Path::new("/etc/jarchy/jarchy.toml")).unwrap();
    assert_eq!(config.database.poll, Duration::from_millis(100));
    let Place::Server(server) = &config.database.place else { panic!("{config:?}") };
    assert!(server.encrypted() && server.has_password());
    for said in [format!("{config:?}"), show::show(&config, &text)] {
        assert!(!said.contains("s3cret") && said.contains("postgres://ca@db.example.org:5432/issuance"), "{said}");
    }
}

#[test]
fn a_config_with_a_password_is_its_owners_only() {
    use std::fs::{Permissions, set_permissions, write};
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jarchy.toml");
    write(&file, with_database("url = \"mysql://ca:s3cret@db/issuance\"")).unwrap();
    set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let refused = Config::load(&file).unwrap_err().to_string();
    assert!(refused.contains("(mode 644)") && refused.contains("`password_file`"), "{refused}");
    set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    Config::load(&file).unwrap();
}

#[test]
fn what_is_wrong_with_a_database_is_said_without_its_password() {
    let url = "url = \"postgres://ca:s3cret@db/issuance\"";
    for (settings, says) in [
        ("url = \"postgres://ca:s3cret@db\"".to_owned(), "names no database"),
        ("url = \"oracle://ca:s3cret@db/issuance\"".to_owned(), "postgres://user@host/database"),
        ("url = \"postgres://ca:s3cret@db/issuance".to_owned(), ":7:"),
        ("url = [\"postgres://ca:s3cret@db/issuance\"]".to_owned(), "expected a string"),
        (format!("{url}\npassword_file = \"password\""), "two passwords"),
        (format!("{url}\npath = \"issuance.db\""), "either a file or on a server"),
        (format!("{url}\nclient_key = \"db.key\""), "a key its certificate"),
        ("path = \"issuance.db\"\ntls = \"verify\"".to_owned(), "`tls` is for databases on a server"),
        ("password_file = \"password\"".to_owned(), "`password_file` is for databases on a server"),
    ] {
        let shown = faults(&with_database(&settings));
        assert!(shown.contains(says) && !shown.contains("s3cret"), "{settings}\n{shown}");
    }
}

#[test]
fn a_source_of_its_own_takes_the_settings_of_its_kind_and_no_others() {
    let crl = sample("crl-source.toml");
    let source = crl.issuers[0].source.as_ref().unwrap();
    assert_eq!((source.absent, source.poll, crl.uses_database()), (Some(Absent::Good), SECOND, false));
    let index = sample("index-txt.toml");
    let source = index.issuers[0].source.as_ref().unwrap();
    let path = index.file.parent().unwrap().join("index.txt");
    assert!(matches!(&source.from, source::From::IndexTxt { path: read, certificates: None } if *read == path));
    assert_eq!((source.absent, source.poll), (None, SECOND));

    let of = |settings: &str| faults(&format!("{CA}[issuer.ocsp]\nkey = \"ca.key\"\n[issuer.source]\n{settings}\n"));
    for (settings, says) in [
        ("kind = \"index.txt\"", ":7:8: this kind of source needs one setting more"),
        ("kind = \"index.txt\"\npath = \"i\"\nurl = \"http://a/b\"", ":9:7: a source of kind index.txt has no `url`"),
        ("kind = \"index.txt\"\npath = \"i\"\nabsent = \"good\"", ":9:10: this source knows which serials were never"),
        ("kind = \"crl\"\nabsent = \"good\"", ":7:8: one of `path` and `url` says where the list is"),
        ("kind = \"crl\"\npath = \"c\"", ":7:8: this source does not know what was issued"),
        ("kind = \"crl\"\nurl = \"https://a/b\"\nabsent = \"good\"", ":8:7: \"https://a/b\" is no URL that a list"),
        ("kind = \"crl\"\npath = \"c\"\nabsent = \"revoked\"", "unknown variant `revoked`"),
        ("kind = \"ldap\"", "unknown variant `ldap`"),
    ] {
        assert!(of(settings).contains(says), "{settings}\n{}", of(settings));
    }
    let source = "[issuer.source]\nkind = \"crl\"\npath = \"c\"\nabsent = \"good\"\n";
    let shown =
        faults(&format!("{CA}{source}[issuer.ocsp]\nnot_issued = \"unknown\"\n[issuer.crl]\nkey = \"ca.key\"\n"));
    assert!(shown.contains(":9:14: this source does not tell what was issued"), "{shown}");
    assert!(shown.contains(":11:7: the CA publishes its own lists"), "{shown}");
}
