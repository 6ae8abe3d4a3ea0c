//! `jarchy crl …` as an operator uses it, and lists over HTTP as `curl` fetches them.

use crate::harness::{Demo, Said, Server, contains, jarchy, openssl, run, text, wait_until};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Fetches a list in DER.
fn fetch(demo: &Demo, path: &str, name: &str) -> PathBuf {
    let file = demo.scratch(name);
    demo.server.fetch(path, &file);
    file
}

/// A demo, the first list of it, and a later one with its delta, in which `good` is revoked and `on-hold` released.
fn changed() -> (Demo, PathBuf, PathBuf, PathBuf) {
    let demo = Demo::start();
    let first = fetch(&demo, "/crl/demo.crl", "first.crl");
    demo.operator(&["revoke", &demo.file("good.pem"), "--reason", "keyCompromise"]).ok("revoke");
    demo.operator(&["release", &demo.file("on-hold.pem")]).ok("release");
    let url = format!("{}/crl/demo-delta.crl", demo.server.url);
    let (good, hold) = (demo.serial("good"), demo.serial("on-hold"));
    wait_until("both stand in the delta", || {
        let said = jarchy(&["crl", "show", &url, "--entries"]);
        contains(&said.out, &format!("{good} keyCompromise"))?;
        contains(&said.out, &format!("{hold} removeFromCRL"))
    });
    let delta = fetch(&demo, "/crl/demo-delta.crl", "delta.crl");
    let second = fetch(&demo, "/crl/demo.crl", "second.crl");
    (demo, first, second, delta)
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:#?}"))
}

#[test]
fn lists_are_shown_from_a_file_a_url_and_the_state_store() {
    let (demo, first, second, delta) = changed();
    let shown = jarchy(&["crl", "show", text(&first)]).ok("show").out;
    for part in
        ["complete CRL 1", "issuer        CN=Jarchy Demo", "nextUpdate ", "delta at      http://", "certificateHold 1"]
    {
        contains(&shown, part).unwrap();
    }
    let url = format!("{}/crl/demo.crl", demo.server.url);
    let by_url = json(&jarchy(&["crl", "show", &url, "--json"]).ok("show URL"));
    let by_pem = json(&jarchy(&["crl", "show", &format!("{url}.pem"), "--json"]).ok("show PEM"));
    let by_name = json(&demo.operator(&["crl", "show", "demo", "--json"]).ok("show demo"));
    let by_file = json(&jarchy(&["crl", "show", text(&second), "--json"]).ok("show FILE"));
    assert!(by_url == by_pem && by_url == by_name && by_url == by_file, "{by_url:#}\n{by_name:#}");
    assert_eq!(by_url["reasons"]["keyCompromise"].as_u64().map(|count| count > 1), Some(true), "{by_url:#}");
    let of_delta = json(&jarchy(&["crl", "show", text(&delta), "--json", "--entries"]).ok("show delta"));
    assert_eq!(of_delta["entries"].as_array().unwrap().len(), 2, "{of_delta:#}");
    let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let of_first = json(&jarchy(&["crl", "show", text(&first), "--json"]).ok("show first"));
    assert!(number(&of_delta["base"]) <= number(&of_first["number"]), "{of_delta:#}");
    let serial = demo.serial("good");
    contains(&jarchy(&["crl", "show", text(&second), "--serial", &serial]).out, "keyCompromise at").unwrap();
    contains(&jarchy(&["crl", "show", text(&first), "--serial", &serial]).out, "is not listed").unwrap();
    // OpenSSL reads the same number.
    let hex = openssl(&["crl", "-inform", "DER", "-in", text(&second), "-noout", "-crlnumber"]).out;
    let number: u64 = by_url["number"].as_str().unwrap().parse().unwrap();
    contains(&hex, &format!("{number:X}")).unwrap();
}

#[test]
fn verify_tells_what_is_wrong_and_says_so_by_its_exit_status() {
    let (demo, first, second, delta) = changed();
    let ca = demo.file("ca.pem");
    let good = jarchy(&["crl", "verify", text(&second), "--issuer", &ca]).ok("verify");
    contains(&good.out, "\nvalid").unwrap();
    let together = ["crl", "verify", text(&delta), "--base", text(&first), "--issuer", &ca];
    contains(&jarchy(&together).ok("delta").out, "together\n").unwrap();

    let refused = |arguments: &[&str], why: &str| {
        let said = jarchy(&[&["crl", "verify"], arguments].concat());
        assert_eq!(said.status.code(), Some(3), "{arguments:?}: {said:#?}");
        let line = said.out.lines().find(|line| line.contains("WRONG") && line.contains(why));
        assert!(line.is_some() && said.out.ends_with("NOT VALID\n"), "{why}: {said:#?}");
    };
    // A delta does not complete its own twin, nor another delta, nor does a complete list.
    refused(&[text(&delta), "--base", text(&second), "--issuer", &ca], "numbers");
    refused(&[text(&delta), "--base", text(&delta), "--issuer", &ca], "kinds");
    refused(&[text(&first), "--base", text(&first), "--issuer", &ca], "kinds");
    refused(&[text(&first), "--issuer", &ca, "--at", "2099-01-01"], "it is over");
    refused(&[text(&first), "--issuer", &ca, "--at", "2020-01-01"], "not valid yet");
    refused(&[text(&first), "--issuer", &demo.file("ocsp.pem")], "signature");
    let mut bytes = fs::read(&second).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let forged = demo.scratch("forged.crl");
    fs::write(&forged, &bytes).unwrap();
    refused(&[text(&forged), "--issuer", &ca], "signature");
    let said = json(&jarchy(&["crl", "verify", text(&forged), "--issuer", &ca, "--json"]));
    assert_eq!(said["valid"], false, "{said:#}");
    // What is no list at all was not found to be wrong: it was not found out.
    fs::write(&forged, &bytes[..last]).unwrap();
    for what in [text(&forged), "http://127.0.0.1:1/no.crl", "https://crl.example/a.crl", "no-such-file.crl", &ca] {
        let said = jarchy(&["crl", "verify", what, "--issuer", &ca]);
        assert_eq!((said.status.code(), said.out.as_str()), (Some(1), ""), "{what}: {said:#?}");
        assert!(said.err.starts_with("jarchy: ") && said.err.trim_end().lines().count() == 1, "{what}: {said:#?}");
    }
}

#[test]
fn diff_shows_what_came_and_went_and_history_and_get_bring_back_what_was() {
    let (demo, first, second, _) = changed();
    let said = jarchy(&["crl", "diff", text(&first), text(&second)]);
    assert_eq!(said.status.code(), Some(3), "{said:#?}");
    // One that ended may leave with any list after the regular one that carried it (promise 7).
    let ended = demo.serial("expired-revoked");
    let lines: Vec<&str> = said.out.lines().skip(2).filter(|line| !line.contains(&ended)).collect();
    assert!(lines[0].starts_with(&format!("- {} certificateHold", demo.serial("on-hold"))), "{lines:#?}");
    assert!(
        lines[1].starts_with(&format!("+ {} keyCompromise", demo.serial("good"))) && lines.len() == 2,
        "{lines:#?}"
    );
    let same = jarchy(&["crl", "diff", text(&second), text(&second)]).ok("diff");
    contains(&same.out, "the same").unwrap();
    let counts = json(&jarchy(&["crl", "diff", text(&first), text(&second), "--json"]));
    let count = |list: &str| {
        let all = counts[list].as_array().unwrap();
        all.iter().filter(|entry| !entry.to_string().contains(&ended)).count()
    };
    assert_eq!((count("added"), count("removed")), (1, 1));

    let history = json(&demo.operator(&["crl", "history", "demo", "--json"]).ok("history"));
    let history = history.as_array().unwrap();
    assert!(history.windows(2).all(|pair| pair[0]["number"].as_u64() >= pair[1]["number"].as_u64()), "{history:#?}");
    let oldest = history.last().unwrap();
    assert_eq!((&oldest["kept"], &oldest["base"], &oldest["regular"]), (&true.into(), &Value::Null, &true.into()));
    let table = demo.operator(&["crl", "history", "demo", "--limit", "1"]).ok("history").out;
    contains(&table, "older ones are not shown").unwrap();

    let number = oldest["number"].to_string();
    let got = demo.scratch("got.crl");
    demo.operator(&["crl", "get", "demo", "--number", &number, "-o", text(&got)]).ok("get");
    let served = fetch(&demo, &format!("/crl/demo/{number}.crl"), "served.crl");
    assert_eq!(fs::read(&got).unwrap(), fs::read(served).unwrap());
    let at = history[0]["this_update"].as_str().unwrap();
    demo.operator(&["crl", "get", "demo", "--at", at, "--pem", "-o", text(&got)]).ok("get --at");
    let shown = openssl(&["crl", "-in", text(&got), "-noout", "-crlnumber"]).ok("crl").out;
    contains(&shown, &format!("{:X}", history[0]["number"].as_u64().unwrap())).unwrap();
    let none = demo.operator(&["crl", "get", "demo", "--at", "2001-01-01", "-o", text(&got)]);
    assert!(!none.status.success() && none.err.contains("there are lists from"), "{none:#?}");
    let nobody = demo.operator(&["crl", "history", "nobody"]);
    assert!(!nobody.status.success() && nobody.err.contains("(it has: demo)"), "{nobody:#?}");
}

/// Where the operator's listener of a server stands: port 0 was asked for, the log has the answer.
pub(crate) fn admin(server: &Server) -> String {
    let log = server.log();
    let line = log.lines().find(|line| line.contains("health and metrics")).unwrap_or_else(|| panic!("{log}"));
    line.rsplit_once("address=").unwrap().1.trim().to_owned()
}

#[test]
fn crl_now_comes_back_when_the_new_list_is_served() {
    let (work, dir) = Demo::copied();
    let config = dir.join("jarchy.toml");
    let on = fs::read_to_string(&config).unwrap().replace("admin = \"off\"", "admin = \"127.0.0.1:0\"\ngrace = \"0s\"");
    // Left to itself, this server would publish nothing for an hour.
    fs::write(&config, on.replace("#debounce = \"200ms\"", "debounce = \"1h\"\nmax_delay = \"1h\"")).unwrap();
    let server =
        Server::start(&["serve", "--config", text(&config), "--listen", "127.0.0.1:0"], &work.path().join("log"));
    let admin = admin(&server);
    let good = dir.join("good.pem");
    jarchy(&["revoke", text(&good), "--reason", "superseded", "--config", text(&config)]).ok("revoke");
    let now = ["crl", "now", "demo", "--admin", &admin, "--config", text(&config)];
    let said = jarchy(&now).ok("now");
    let number = said.out.trim().strip_prefix("demo: CRL ").and_then(|rest| rest.strip_suffix(" is served"));
    let number: u64 = number.unwrap_or_else(|| panic!("{said:#?}")).parse().unwrap();
    let url = format!("{}/crl/demo.crl", server.url);
    let shown = json(&jarchy(&["crl", "show", &url, "--json"]).ok("show"));
    assert_eq!(shown["number"], number.to_string());
    let serial = openssl(&["x509", "-in", text(&good), "-noout", "-serial"]).ok("x509").out;
    let serial = serial.trim().trim_start_matches("serial=");
    contains(&jarchy(&["crl", "show", &url, "--serial", serial]).out, "superseded at").unwrap();
    let again = json(&jarchy(&[&now[..], &["--json"]].concat()).ok("now --json"));
    assert!(again["lists"][0]["number"].as_u64() > Some(number), "{again:#}");

    let metrics = run("curl", &["-fsS", &format!("http://{admin}/metrics")]).ok("metrics").out;
    contains(&metrics, "jarchy_crl_number{issuer=\"demo\",list=\"complete\"}").unwrap();
    let page = run(
        "curl",
        &["-sS", "-X", "POST", "-H", "Origin: http://evil.example", &format!("http://{admin}/crl/now/demo")],
    );
    contains(&page.out, "not from browsers").unwrap();
    let off = ["crl", "now", "other", "--config", text(&config)];
    assert!(jarchy(&off).err.contains("(it has: demo)"));
}

#[test]
fn curl_continues_a_broken_download_and_asks_only_for_what_is_new() {
    let demo = Demo::start();
    let url = format!("{}/crl/demo.crl", demo.server.url);
    let whole = fs::read(fetch(&demo, "/crl/demo.crl", "whole.crl")).unwrap();
    let part = demo.scratch("part.crl");
    fs::write(&part, &whole[..1000]).unwrap();
    run("curl", &["-fsS", "-C", "-", "-o", text(&part), &url]).ok("continue");
    assert_eq!(fs::read(&part).unwrap(), whole);
    let headers = demo.server.headers("/crl/demo.crl", &["-r", "0-9"]).to_lowercase();
    contains(&headers, " 206 ").unwrap();
    contains(&headers, &format!("content-range: bytes 0-9/{}", whole.len())).unwrap();
    contains(&demo.server.headers("/crl/demo.crl", &["-r", "9999999-"]), " 416 ").unwrap();
    // curl keeps the date as the file's, and sends it with -z.
    run("curl", &["-fsSR", "-o", text(&part), &url]).ok("fetch");
    let tag = demo.scratch("tag");
    run("curl", &["-fsS", "--etag-save", text(&tag), "-o", text(&part), &url]).ok("etag");
    let again = run("curl", &["-sS", "--etag-compare", text(&tag), "-o", "/dev/null", "-w", "%{http_code}", &url]);
    assert_eq!(again.out, "304");
}

#[test]
fn crl_70_the_cas_software_learns_which_list_a_serial_belongs_to() {
    let (work, dir) = Demo::copied();
    let config = dir.join("jarchy.toml");
    let on = fs::read_to_string(&config).unwrap().replace("admin = \"off\"", "admin = \"127.0.0.1:0\"\ngrace = \"0s\"");
    let plain = ["crl", "shard", "0A1B", "--config", text(&config)];
    contains(&jarchy(&plain).err, "has shards").unwrap();
    fs::write(&config, on.replace("# shards = 16", "shards = 3")).unwrap();
    the_list_stands_where_certificates_say(work.path(), &dir, 3, "--shard");
}

#[test]
fn crl_76_lists_by_kind_stand_where_certificates_say_also_at_a_path_of_ones_own() {
    let (work, dir) = Demo::copied();
    let config = dir.join("jarchy.toml");
    let on = fs::read_to_string(&config).unwrap().replace("admin = \"off\"", "admin = \"127.0.0.1:0\"\ngrace = \"0s\"");
    let by_kind = "shard_by = \"kind\"\nshard_url = \"{public_url}/lists/{issuer}/of-{n}.crl\"";
    fs::write(&config, on.replace("# shards = 16", by_kind)).unwrap();
    the_list_stands_where_certificates_say(work.path(), &dir, 2, "--kind");
    let (list, ca) = (work.path().join("user.crl"), dir.join("ca.pem"));
    let get = [
        "crl",
        "get",
        "demo",
        "--kind",
        "user",
        "--at",
        "2099-01-01",
        "--output",
        text(&list),
        "--config",
        text(&config),
    ];
    jarchy(&get).ok("get");
    let read = openssl(&["crl", "-inform", "DER", "-in", text(&list), "-noout", "-text", "-CAfile", text(&ca)]);
    contains(&read.all(), "Only User Certificates").unwrap();
    contains(&read.all(), "/lists/demo/of-user.crl").unwrap();
}

/// Of a certificate that gets revoked, in the folder of a demo whose CA has `count` lists; `option` asks for one.
fn the_list_stands_where_certificates_say(work: &Path, dir: &Path, count: usize, option: &str) {
    let config = dir.join("jarchy.toml");
    let good = dir.join("good.pem");
    let serial = openssl(&["x509", "-in", text(&good), "-noout", "-serial"]).ok("x509").out;
    let serial = serial.trim().trim_start_matches("serial=").to_owned();
    let shard = json(&jarchy(&["crl", "shard", &serial, "--json", "--config", text(&config)]).ok("shard"));
    let url = shard["url"].as_str().unwrap();
    let path = url.split_once("://").unwrap().1.split_once('/').unwrap().1.to_owned();
    let part = shard["shard"].as_str().map_or_else(|| shard["shard"].to_string(), str::to_owned);

    let log = work.join("log");
    let server = Server::start(&["serve", "--config", text(&config), "--listen", "127.0.0.1:0"], &log);
    jarchy(&["revoke", text(&good), "--reason", "superseded", "--config", text(&config)]).ok("revoke");
    let now = ["crl", "now", "demo", "--admin", &admin(&server), "--json", "--config", text(&config)];
    let lists = json(&jarchy(&now).ok("now"));
    assert_eq!(lists["lists"].as_array().unwrap().len(), count, "{lists:#}");
    // The list is where the certificate would say it is, and says the same itself.
    let list = json(&jarchy(&["crl", "show", &format!("{}/{path}", server.url), "--json", "--entries"]).ok("show"));
    assert_eq!(list["distribution_point"]["uris"][0], url, "{list:#}");
    assert!(list["entries"].as_array().unwrap().iter().any(|entry| entry["serial"] == serial.as_str()), "{list:#}");
    let ca = dir.join("ca.pem");
    jarchy(&["crl", "verify", &format!("{}/{path}", server.url), "--issuer", text(&ca)]).ok("verify");
    let history = json(&jarchy(&["crl", "history", "demo", option, &part, "--json", "--config", text(&config)]));
    assert_eq!(history[0]["number"].to_string(), list["number"].as_str().unwrap(), "{history:#}");
}

#[test]
fn an_operators_word_on_the_clock_is_taken_and_said() {
    let demo = Demo::start();
    let said = demo.operator(&["crl", "confirm-clock", "--by", "boris"]).ok("confirm-clock");
    contains(&said.out, "nobody doubted it").unwrap();
    let said = demo.operator(&["crl", "supersede", "demo", "--by", "boris"]).ok("supersede");
    contains(&said.out, "demo: 0 lists dated after").unwrap();
}
