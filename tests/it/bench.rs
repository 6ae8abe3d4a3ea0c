//! `jarchy bench`: counts rightly, finds what is wrong, and lives through whatever a server does.

use crate::harness::{DEADLINE, Demo, Said, contains, jarchy, run, text, wait_until};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The OCSPResponse unauthorized: right for a serial number that nobody issued.
const UNAUTHORIZED: [u8; 5] = [0x30, 3, 0x0a, 1, 6];

fn ca() -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pki/ca-p256.pem")).to_owned()
}

#[track_caller]
fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:#?}"))
}

fn number(json: &Value, pointer: &str) -> u64 {
    json.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number {pointer} in {json:#}"))
}

fn ok(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// What a server of a test does with the request of that number; false ends the connection.
type Answer = dyn Fn(usize, &mut TcpStream, &str) -> bool + Send + Sync;

/// A server that does as it is told. It lives as long as the test's process.
struct Stub {
    url: String,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Stub {
    fn start(answer: Box<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/ocsp", listener.local_addr().unwrap());
        let (requests, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, made, answer) = (requests.clone(), connections.clone(), Arc::new(answer));
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                made.fetch_add(1, Ordering::SeqCst);
                let (counted, answer) = (counted.clone(), answer.clone());
                thread::spawn(move || {
                    while let Some(head) = request(&mut stream) {
                        if !answer(counted.fetch_add(1, Ordering::SeqCst), &mut stream, &head) {
                            break;
                        }
                    }
                });
            }
        });
        Self { url, requests, connections }
    }

    fn bench(&self, arguments: &[&str]) -> Said {
        let fixed = ["bench", &self.url, "--issuer", &ca(), "--not-issued", "all", "--warm-up", "0s", "--json", "-"];
        jarchy(&[&fixed, arguments].concat())
    }
}

/// Reads one request; its head, or nothing if the client has gone.
fn request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet).ok()?;
        head.push(octet[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
    stream.read_exact(&mut vec![0; length]).ok()?;
    Some(head)
}

fn serials(demo: &Demo, lines: &[(&str, &str)]) -> String {
    let lines: Vec<String> = lines.iter().map(|(name, status)| format!("{} {status}\n", demo.serial(name))).collect();
    let file = demo.scratch("serials.txt");
    fs::write(&file, lines.concat()).unwrap();
    text(&file).to_owned()
}

#[test]
fn a_right_responder_is_found_right_and_the_counts_add_up() {
    let demo = Demo::start();
    let listed =
        serials(&demo, &[("good", "good"), ("revoked-key-compromise", "revoked"), ("not-issued", "unauthorized")]);
    let (url, issuer) = (format!("{}/ocsp", demo.server.url), demo.file("ca.pem"));
    let html = demo.scratch("result.html");
    let said = jarchy(&[
        "bench",
        &url,
        "--issuer",
        &issuer,
        "--serials",
        &listed,
        "-n",
        "2000",
        "-c",
        "5",
        "-t",
        "2",
        "--warm-up",
        "100ms",
        "--not-issued",
        "20%",
        "--get",
        "50%",
        "--sha256",
        "50%",
        "--nonce",
        "10%",
        "--verify",
        "all",
        "--seed",
        "1",
        "--json",
        "-",
        "--html",
        text(&html),
    ]);
    let said = said.ok("bench");
    let json = json(&said);
    assert_eq!((number(&json, "/requests"), number(&json, "/right")), (2000, 2000), "{json:#}");
    let outcome = |word: &str| number(&json, &format!("/outcomes/{word}"));
    assert!(outcome("good") > 300 && outcome("revoked") > 300 && outcome("unauthorized") > 600, "{json:#}");
    assert_eq!(outcome("good") + outcome("revoked") + outcome("unauthorized"), 2000);
    assert_eq!(number(&json, "/marks/verified"), outcome("good") + outcome("revoked"));
    assert!(number(&json, "/marks/nonce sent") > 50, "{json:#}");
    let (post, get) = (number(&json, "/latency_us/POST/count"), number(&json, "/latency_us/GET/count"));
    assert!(post > 800 && get > 800 && post + get == 2000, "{json:#}");
    let slots = json["timeline"]["slots"].as_array().unwrap();
    assert_eq!(slots.iter().map(|slot| number(slot, "/right")).sum::<u64>(), 2000);
    let page = fs::read_to_string(html).unwrap();
    for part in ["<svg", "prefers-color-scheme:dark", &url, "2,000"] {
        contains(&page, part).unwrap();
    }
    for part in ["src=", "href=", "@import", "url(", "<script"] {
        assert!(!page.contains(part), "{part} reaches for something else");
    }
}

#[test]
fn a_wrong_expectation_is_named_and_is_not_a_success() {
    let demo = Demo::start();
    let listed = serials(&demo, &[("good", "revoked"), ("on-hold", "revoked")]);
    let (url, issuer) = (format!("{}/ocsp", demo.server.url), demo.file("ca.pem"));
    let said =
        jarchy(&["bench", &url, "--issuer", &issuer, "--serials", &listed, "-n", "100", "-c", "2", "--warm-up", "0s"]);
    assert_eq!(said.status.code(), Some(3), "{said:#?}");
    contains(&said.out, "wrong status").unwrap();
    contains(&said.out, &format!("serial {}: expected revoked, got good", demo.serial("good"))).unwrap();
    assert!(!said.out.contains(&format!("serial {}:", demo.serial("on-hold"))), "{said:#?}");
}

#[test]
fn serials_come_from_certificates_and_ranges_too() {
    let demo = Demo::start();
    let (url, issuer, dir) = (format!("{}/ocsp", demo.server.url), demo.file("ca.pem"), text(&demo.dir).to_owned());
    let fixed = ["bench", &url, "--issuer", &issuer, "-n", "200", "--warm-up", "0s", "--json", "-"];
    // One of the certificates in the folder was never issued, as far as the database knows.
    let folder = jarchy(&[&fixed[..], &["--certs", &dir]].concat());
    assert_eq!(folder.status.code(), Some(4), "{folder:#?}");
    let unauthorized = number(&json(&folder), "/errors/kinds/OCSP unauthorized/count");
    assert_eq!(number(&json(&folder), "/errors/count"), unauthorized);
    let first = demo.serial("good");
    let one = jarchy(&[&fixed[..], &["--range", &format!("{first}+1"), "--new-connections"]].concat()).ok("range");
    assert_eq!(number(&json(&one), "/outcomes/good"), 200);
    assert!(number(&json(&one), "/connecting_us/count") >= 200);
}

#[test]
fn whatever_a_server_does_is_counted_as_what_it_is() {
    let chunked = |body: &[u8]| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n";
        [head, &body[..2], b"\r\n3;x\r\n", &body[2..], b"\r\n0\r\n\r\n"].concat()
    };
    let page = ok(b"<html>not here</html>");
    let slow = Duration::from_millis(400);
    for (kind, bytes, then, ends) in [
        ("answer cut short", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n0".to_vec(), Duration::ZERO, true),
        ("answer cut short", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(), Duration::ZERO, true),
        ("not HTTP", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), Duration::ZERO, false),
        ("not HTTP", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(), Duration::ZERO, false),
        ("not an OCSP response", page, Duration::ZERO, false),
        ("no answer in time", Vec::new(), slow, false),
        ("no answer in time", b"HTTP/1.1 200 OK\r\n\r\nhalf".to_vec(), slow, false),
        ("closed without an answer", Vec::new(), Duration::ZERO, true),
        ("HTTP status 503", b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec(), Duration::ZERO, false),
        ("OCSP tryLater", ok(&[0x30, 3, 0x0a, 1, 3]), Duration::ZERO, false),
        ("", chunked(&UNAUTHORIZED), Duration::ZERO, false),
        ("", [&ok(&UNAUTHORIZED)[..]].concat(), Duration::ZERO, false),
        ("", [b"HTTP/1.0 200 OK\r\n\r\n", &UNAUTHORIZED[..]].concat(), Duration::ZERO, true),
        (
            "",
            [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", &UNAUTHORIZED[..]].concat(),
            Duration::ZERO,
            true,
        ),
    ] {
        // The first question is the one that looks whether there is a responder at all.
        let stub = Stub::start(Box::new(move |number, stream, _| {
            let bytes = if number == 0 { ok(&UNAUTHORIZED) } else { bytes.clone() };
            if number > 0 && !then.is_zero() {
                thread::sleep(then);
            }
            stream.write_all(&bytes).is_ok() && (number == 0 || !ends)
        }));
        let said = stub.bench(&["-n", "6", "-c", "2", "--timeout", "200ms"]);
        let seen = json(&said);
        let (code, right) = if kind.is_empty() { (0, 6) } else { (4, 0) };
        assert_eq!(said.status.code(), Some(code), "{kind}: {said:#?}");
        assert_eq!((number(&seen, "/requests"), number(&seen, "/right")), (6, right), "{kind}: {seen:#}");
        if !kind.is_empty() {
            assert_eq!(number(&seen, &format!("/errors/kinds/{kind}/count")), 6, "{seen:#}");
        }
    }
}

#[test]
fn a_server_that_closes_after_each_answer_loses_no_more_than_what_it_closed_on() {
    let stub = Stub::start(Box::new(|_, stream, _| {
        stream.write_all(&ok(&UNAUTHORIZED)).unwrap();
        false
    }));
    let seen = json(&stub.bench(&["-n", "50", "-c", "2"]));
    assert_eq!(number(&seen, "/requests"), 50, "{seen:#}");
    assert!(number(&seen, "/right") > 0, "{seen:#}");
    assert_eq!(number(&seen, "/right") + number(&seen, "/errors/kinds/closed without an answer/count"), 50, "{seen:#}");
    assert!(stub.connections.load(Ordering::SeqCst) >= 25);
}

#[test]
fn a_server_that_stalls_cannot_hide_it_from_a_fixed_rate() {
    let pause = Duration::from_millis(300);
    let stub = Stub::start(Box::new(move |number, stream, _| {
        if number == 100 {
            thread::sleep(pause);
        }
        stream.write_all(&ok(&UNAUTHORIZED)).is_ok()
    }));
    let said = stub.bench(&["--rate", "250", "-d", "2s", "-c", "1"]).ok("bench");
    let seen = json(&said);
    // 75 requests were due in the pause, each of which waited for the rest of it: the slowest 5 of 500 for about 280 ms.
    assert!(number(&seen, "/right") >= 490, "{seen:#}");
    let p99 = seen["latency_us"]["all"]["p99"].as_f64().unwrap();
    assert!(p99 > 200_000.0, "{seen:#}");
    assert_eq!(number(&seen, "/right") + number(&seen, "/unsent"), 500, "{seen:#}");
}

#[test]
fn lists_are_fetched_whole_in_parts_and_not_again() {
    let demo = Demo::start();
    let (url, issuer) = (format!("{}/crl/demo.crl", demo.server.url), demo.file("ca.pem"));
    let fixed = ["bench", "crl", &url, "--issuer", &issuer, "-n", "600", "-c", "3", "--warm-up", "0s", "--json", "-"];
    let said = jarchy(&[&fixed[..], &["--conditional", "30%", "--range", "30%"]].concat()).ok("bench crl");
    let seen = json(&said);
    let outcome = |word: &str| number(&seen, &format!("/outcomes/{word}"));
    assert!(outcome("whole") > 100 && outcome("not modified") > 50 && outcome("part") > 50, "{seen:#}");
    assert_eq!(outcome("whole") + outcome("not modified") + outcome("part"), 600);
    assert_eq!(number(&seen, "/marks/octets of a verified list"), outcome("whole") + outcome("part"));
    let mut whole = Vec::new();
    demo.server.fetch("/crl/demo.crl", &demo.scratch("list"));
    fs::File::open(demo.scratch("list")).unwrap().read_to_end(&mut whole).unwrap();
    assert!(number(&seen, "/octets") >= outcome("whole") * whole.len() as u64, "{seen:#}");

    // The same list, of which one octet is another one the third time.
    let stub = Stub::start(Box::new(move |number, stream, _| {
        let mut body = whole.clone();
        if number == 2 {
            *body.last_mut().unwrap() ^= 1;
        }
        let head = format!("HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat()).is_ok()
    }));
    let said = jarchy(&["bench", "crl", &stub.url, "--issuer", &issuer, "-n", "10", "-c", "1", "--warm-up", "0s"]);
    assert_eq!(said.status.code(), Some(3), "{said:#?}");
    contains(&said.out, "1 other octets under the same ETag").unwrap();
    let stranger = jarchy(&["bench", "crl", &stub.url, "--issuer", &ca(), "-n", "10"]);
    assert_eq!(stranger.status.code(), Some(1), "{stranger:#?}");
    contains(&stranger.err, "it is of another CA").unwrap();
}

#[test]
fn ctrl_c_ends_a_run_with_its_summary() {
    let stub = Stub::start(Box::new(|_, stream, _| stream.write_all(&ok(&UNAUTHORIZED)).is_ok()));
    let arguments = ["bench", &stub.url, "--issuer", &ca(), "--not-issued", "all", "-d", "1h", "--warm-up", "0s"];
    let child = Command::new(env!("CARGO_BIN_EXE_jarchy")).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    wait_until("requests", || match stub.requests.load(Ordering::SeqCst) {
        few @ ..100 => Err(format!("{few} requests")),
        _ => Ok(()),
    });
    let interrupted = Instant::now();
    run("sh", &["-c", &format!("kill -INT {}", child.id())]).ok("kill");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && interrupted.elapsed() < DEADLINE, "{output:?}");
    let out = String::from_utf8(output.stdout).unwrap();
    contains(&out, "unauthorized").unwrap();
    contains(&out, "errors       0").unwrap();
}

#[test]
fn the_highest_rate_within_a_limit_is_looked_for() {
    // One at a time, 4 ms each: 250 a second at most.
    let stub = Stub::start(Box::new(|_, stream, _| {
        thread::sleep(Duration::from_millis(4));
        stream.write_all(&ok(&UNAUTHORIZED)).is_ok()
    }));
    let said = stub.bench(&["--find-max", "p50=1s", "-c", "1", "-d", "500ms"]);
    let seen = json(&said.ok("find-max"));
    let rate = seen["target_rate"].as_f64().unwrap();
    assert!((50.0..=250.0).contains(&rate), "{seen:#}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}/ocsp", closed.local_addr().unwrap());
    drop(closed);
    let page = Stub::start(Box::new(|_, stream, _| stream.write_all(&ok(b"<html>hello</html>")).is_ok()));
    let missing =
        Stub::start(Box::new(|_, stream, _| stream.write_all(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n").is_ok()));
    let mail = Stub::start(Box::new(|_, stream, _| stream.write_all(b"220 mail ESMTP\r\n").is_ok()));
    let silent = Stub::start(Box::new(|_, _, _| true));
    for (url, part) in [
        (&nobody, "nothing listens at"),
        (&page.url, "is not an OCSP responder"),
        (&missing.url, "HTTP status 404"),
        (&mail.url, "does not speak HTTP"),
        (&silent.url, "gives no answer"),
        (&"https://127.0.0.1/".to_owned(), "only http://"),
    ] {
        let said = jarchy(&["bench", url, "--issuer", &ca(), "--not-issued", "all", "--timeout", "300ms"]);
        assert_eq!(said.status.code(), Some(1), "{said:#?}");
        contains(&said.err, part).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("serials.txt");
    fs::write(&list, "01 good\n0x0G\n").unwrap();
    let said = jarchy(&["bench", &page.url, "--issuer", &ca(), "--serials", text(&list)]);
    contains(&said.err, "serials.txt:2: ").unwrap();
    let said = jarchy(&["bench", &page.url, "--issuer", &ca()]);
    contains(&said.err, "--serials, --certs or --range").unwrap();
}
