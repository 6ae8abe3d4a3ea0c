//! What the issuance database loses, as an operator meets it.

use crate::crl_commands::admin;
use crate::harness::{Demo, Server, contains, jarchy, run, text, wait_until};
use std::fs;

#[test]
fn what_the_database_lost_is_told_of_kept_and_let_go_of_on_an_operators_word() {
    let (work, dir) = Demo::copied();
    let config = dir.join("jarchy.toml");
    let on = fs::read_to_string(&config).unwrap().replace("admin = \"off\"", "admin = \"127.0.0.1:0\"\ngrace = \"0s\"");
    fs::write(&config, on).unwrap();
    let server =
        Server::start(&["serve", "--config", text(&config), "--listen", "127.0.0.1:0"], &work.path().join("log"));
    let admin = admin(&server);
    let command = |arguments: &[&str]| {
        jarchy(&[&["database"], arguments, &["--admin", &admin, "--config", text(&config)]].concat())
    };
    let agreed = command(&["reconcile"]).ok("reconcile").out;
    assert!(agreed.starts_with("feed:database: ") && agreed.contains("mended 0, vanished 0"), "{agreed}");

    let lost = "DROP TRIGGER certificates_delete; \
                DELETE FROM certificates WHERE serial = (SELECT serial FROM certificates WHERE status = 'good' LIMIT 1)";
    run("sqlite3", &[text(&dir.join("issuance.db")), lost]).ok("sqlite3");
    contains(&command(&["reconcile"]).ok("reconcile").out, "mended 0, vanished 1").unwrap();
    let health = || run("curl", &["-sS", &format!("http://{admin}/health/ready")]).out;
    wait_until("health tells of it", || contains(&health(), "1 certificates are gone from the database"));
    contains(
        &run("curl", &["-sS", &format!("http://{admin}/metrics")]).out,
        "jarchy_feed_vanished{source=\"database\"} 1",
    )
    .unwrap();
    let dropped = command(&["confirm-drop", "--by", "boris"]).ok("confirm-drop").out;
    assert_eq!(dropped.trim(), "feed:database: forgotten 1, kept 0");
    wait_until("nothing is missed", || match health().contains("are gone from the database") {
        true => Err("it is still told of".to_owned()),
        false => Ok(()),
    });
}
