//! What stands under deploy/: the systemd unit and what it starts.

use crate::harness::{Server, copy_test_pki, jarchy, run, text};
use std::fs;
use std::path::Path;

fn unit() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/jarchy.service")).unwrap()
}

/// The one value that the unit gives to a setting.
fn setting(name: &str) -> String {
    let unit = unit();
    let values: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect();
    assert_eq!(values.len(), 1, "{name}: {values:?}");
    values[0].to_owned()
}

#[test]
fn the_unit_serves_what_init_makes_for_it_and_writes_nothing_beside_the_config() {
    let dir = tempfile::tempdir().unwrap();
    let (etc, var) = (dir.path().join("etc/jarchy"), dir.path().join("var/lib/jarchy"));
    copy_test_pki(&etc);
    let file = |name: &str| text(&etc.join(name)).to_owned();
    let (ca, ca_key, delegate, key) =
        (file("ca-p256.pem"), file("ca-p256.key"), file("ocsp-p256.pem"), file("ocsp-p256.key"));
    let mut arguments = vec!["init", "--dir", text(&etc), "--data-dir", text(&var), "--issuer", "main"];
    arguments.extend(["--ca-cert", &ca, "--ca-key", &ca_key, "--ocsp-cert", &delegate, "--ocsp-key", &key]);
    jarchy(&arguments).ok("init");
    let config = file("jarchy.toml");
    let written = fs::read_to_string(&config).unwrap();
    fs::write(&config, written.replace("#admin = \"127.0.0.1:9180\"", "admin = \"off\"")).unwrap();
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names(&etc);

    let start = setting("ExecStart").replace("/etc/jarchy/jarchy.toml", &config);
    let mut arguments: Vec<_> = start.strip_prefix("/usr/local/bin/jarchy ").unwrap().split(' ').collect();
    arguments.extend(["--listen", "127.0.0.1:0"]);
    let server = Server::start(&arguments, &dir.path().join("log"));
    assert!(server.headers("/crl/main.crl", &[]).contains(" 200 "));
    server.stop();
    assert_eq!(names(&etc), before);
    for made in ["issuance.db", "jarchy-state.db", "jarchy-state.index"] {
        assert!(var.join(made).exists(), "{made} is not among {:?}", names(&var));
    }

    // The places that the hardened unit may write to, and time for what may take longest when it stops.
    assert_eq!((setting("StateDirectory").as_str(), setting("ProtectSystem").as_str()), ("jarchy", "strict"));
    assert!(written.contains("#drain = \"20s\""));
    assert!(setting("TimeoutStopSec").trim_end_matches('s').parse::<u32>().unwrap() > 20);
}

#[test]
fn systemd_takes_the_unit() {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        println!("SKIPPED: systemd-analyze is not installed");
        assert!(std::env::var_os("JARCHY_REQUIRE_SERVICES").is_none(), "systemd is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jarchy.service");
    fs::write(&file, unit().replace("/usr/local/bin/jarchy", env!("CARGO_BIN_EXE_jarchy"))).unwrap();
    let said = run("systemd-analyze", &["verify", text(&file)]).ok("verify");
    // A setting that it does not know, it only warns of.
    assert!(!said.all().contains("jarchy.service"), "{}", said.all());
    let said = run("systemd-analyze", &["security", "--offline=true", "--threshold=20", text(&file)]);
    said.ok("an exposure of more than 2.0 of 10");
}
