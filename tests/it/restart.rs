//! A start from the index's file, and from the database where the file is of no use.

use crate::harness::{Demo, contains, wait_until};
use std::fs;
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
