//! A start from the index's file, and from the database where the file is of no use.

use crate::harness::{Demo, contains, openssl, text, wait_until};
use jarchy::crl::shard_of;
use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;

const FROM_FILE: &str = "the index was read from its file";
const FROM_DATABASE: &str = "everything is read from the database";

fn answers(demo: &Demo) {
    for (name, status) in [("good", ": good"), ("on-hold", ": revoked")] {
        wait_until(name, || contains(&demo.ask(name, &[]), status));
    }
}

#[test]
fn a_restart_begins_with_the_file_and_goes_on_with_what_changed_since() {
    let mut demo = Demo::start();
    answers(&demo);
    assert!(demo.server.log().contains(FROM_DATABASE), "the first start has no file: {}", demo.server.log());
    demo.server.signal("TERM");
    assert!(demo.server.ended().success());
    let file = demo.dir.join("jarchy-state.index");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    demo.operator(&["revoke", &demo.serial("good"), "--reason", "superseded"]).ok("revoke");
    let before = demo.server.log().len();
    demo.restart_after_end();
    assert!(demo.server.log()[before..].contains(FROM_FILE), "{}", demo.server.log());
    wait_until("revoked while nobody served", || contains(&demo.ask("good", &[]), ": revoked"));
    wait_until("revoked before", || contains(&demo.ask("on-hold", &[]), ": revoked"));
}

#[test]
fn a_file_that_is_damaged_or_of_another_database_is_refused_and_all_is_read_anew() {
    let mut demo = Demo::start();
    answers(&demo);
    let file = demo.dir.join("jarchy-state.index");
    demo.server.signal("TERM");
    assert!(demo.server.ended().success());
    let octets = fs::read(&file).unwrap();
    let changed = |at: usize| {
        let mut octets = octets.clone();
        octets[at] ^= 0x20;
        octets
    };
    let cases = [
        (changed(3), "is of something else"),
        (changed(8), "is of format"),
        (changed(200), "is damaged"),
        (changed(octets.len() - 1), "is damaged"),
        (octets[..octets.len() / 2].to_vec(), "is damaged"),
    ];
    for (octets, why) in cases {
        fs::write(&file, octets).unwrap();
        let before = demo.server.log().len();
        demo.restart_after_end();
        answers(&demo);
        let log = demo.server.log()[before..].to_owned();
        assert!(log.contains(why) && log.contains(FROM_DATABASE) && !log.contains(FROM_FILE), "{why}: {log}");
        demo.server.signal("TERM");
        assert!(demo.server.ended().success());
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let before = demo.server.log().len();
    demo.restart_after_end();
    answers(&demo);
    assert!(demo.server.log()[before..].contains("can be read by others"));
}

#[test]
fn crl_70_a_file_from_before_the_lists_were_divided_by_the_database_is_refused() {
    let mut demo = Demo::start();
    let (good, serial) = (demo.file("good.pem"), demo.serial("good"));
    let shards = NonZeroU32::new(3).unwrap();
    let told = (shard_of(&serial.parse().unwrap(), shards) + 1) % shards;
    demo.operator(&["add", &good, "--shard", &told.to_string()]).ok("add");
    demo.operator(&["revoke", &good, "--reason", "superseded"]).ok("revoke");
    wait_until("revoked", || contains(&demo.ask("good", &[]), ": revoked"));
    demo.server.signal("TERM");
    assert!(demo.server.ended().success());
    let config = fs::read_to_string(demo.config()).unwrap();
    let divided = config.replace("# shards = 16", "shards = 3\nshard_by = \"database\"");
    fs::write(demo.config(), divided).unwrap();
    let before = demo.server.log().len();
    demo.restart_after_end();
    let list = demo.scratch("list.crl");
    demo.server.fetch(&format!("/crl/demo/shard-{told}.crl"), &list);
    let entries = openssl(&["crl", "-inform", "DER", "-in", text(&list), "-noout", "-text"]).ok("crl");
    contains(&entries.out, &serial).unwrap();
    contains(&demo.server.log()[before..], "is of a time when the CRL shards of \"demo\" were not kept").unwrap();
}
