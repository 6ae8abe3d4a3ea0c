//! Killed at any moment, the real binary never forgets a number, a list or a revocation (promises 5 and 12).

use crate::harness::{Demo, Server, jarchy, text};
use jarchy::crl::read::List;
use jarchy::pki::hash::sha256;
use jarchy::pki::{Certificate, IssuerName, Reason, Revocation, Serial, Status, Time};
use jarchy::registry::{Audit, NewCertificate, Registry};
use jarchy::sign::verify;
use jarchy::state::{Form, Scope, State};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Revocations that the list begins with, so that a build has a length.
const FIRST: u64 = 2_000;

fn serial(n: u64) -> Serial {
    Serial::from_magnitude(&(u128::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes())
        .unwrap()
}

fn now() -> Time {
    Time::from_unix(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap())
}

fn revoked(issuer: &IssuerName, n: u64) -> NewCertificate {
    let at = now();
    NewCertificate {
        issuer: issuer.clone(),
        serial: serial(n),
        not_before: at - Duration::from_secs(3_600),
        not_after: at + Duration::from_secs(365 * 86_400),
        sha256: None,
        holder: None,
        medium: None,
        renews: None,
        shard: None,
        ca: None,
        status: Status::Revoked(Revocation { at, reason: Reason::Superseded, invalidity_date: None }),
    }
}

/// The CRL that a server at `url` gives out, if it does.
fn served(url: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(url.strip_prefix("http://")?).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /crl/demo.crl HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let whole = answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200");
    let bytes = answer.get(body..)?.to_vec();
    // A list that was cut off by the end of the server is nobody's list.
    (whole && List::read(&bytes).is_ok()).then_some(bytes)
}

fn serials(list: &[u8]) -> BTreeSet<Serial> {
    List::read(list).unwrap().entries().map(|entry| entry.unwrap().serial).collect()
}

struct Process {
    child: Child,
    url: mpsc::Receiver<String>,
}

impl Process {
    fn start(dir: &Path, log: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_jarchy"))
            .args(["demo", "--dir", text(dir), "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(log).unwrap())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, url) = mpsc::channel();
        thread::spawn(move || {
            let mut first = out.lines().map_while(Result::ok);
            let line = first.next().unwrap_or_default();
            let url = line.strip_prefix("jarchy: serving ").map(|url| url.trim_end_matches('/').to_owned());
            _ = url.map(|url| sender.send(url));
            first.for_each(drop);
        });
        Self { child, url }
    }
}

/// What the test has seen and been promised.
#[derive(Default)]
struct Seen {
    /// Number and SHA-256 of every list that was served.
    served: BTreeMap<u64, [u8; 32]>,
    /// Serials that were on any of them.
    listed: BTreeSet<Serial>,
    /// Of certificates that have ended: a regular list that carried them lets them go (promise 7).
    ended: BTreeSet<Serial>,
}

impl Seen {
    fn missing(&self, listed: &BTreeSet<Serial>) -> Vec<Serial> {
        self.listed.difference(listed).filter(|serial| !self.ended.contains(serial)).copied().collect()
    }

    fn take(&mut self, list: &[u8]) {
        let number = List::read(list).unwrap().number;
        assert!(self.served.last_key_value().is_none_or(|(last, _)| *last <= number), "numbers never go back");
        let known = *self.served.entry(number).or_insert_with(|| sha256(list));
        assert_eq!(known, sha256(list), "number {number} is one list");
        let listed = serials(list);
        let missing = self.missing(&listed);
        assert!(missing.is_empty(), "listed before, and missing in number {number}: {missing:?}");
        self.listed = listed;
    }
}

/// Holds the state store that a killed process left against what was seen.
async fn check(dir: &Path, seen: &Seen, certificate: &Certificate) {
    let state = State::open(&dir.join("jarchy-state.db")).await.unwrap();
    let scope = Scope::whole(&"demo".parse().unwrap());
    let history = state.history(&scope).await.unwrap();
    let numbers: Vec<_> =
        history.iter().filter(|(row, _)| row.base.is_none()).map(|(row, _)| (row.number, row.this_update)).collect();
    assert!(numbers.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 < two[1].1), "{numbers:?}");
    for (number, digest) in &seen.served {
        let row = state.list_numbered(&scope, *number, Form::Complete).await.unwrap();
        assert_eq!(row.unwrap().sha256, *digest, "what was served was durable before");
    }
    for (row, _) in history.iter().filter(|(_, kept)| *kept) {
        let bytes = state.list_bytes(&scope, row).await.unwrap().unwrap();
        let list = List::read(&bytes).unwrap();
        verify::signature(certificate.spki(), list.algorithm, list.tbs, list.signature).unwrap();
    }
    let last = history.iter().rev().find(|(row, _)| row.base.is_none());
    if let Some((row, _)) = last {
        let listed = serials(&state.list_bytes(&scope, row).await.unwrap().unwrap());
        assert!(seen.missing(&listed).is_empty(), "reported, and missing: {:?}", seen.missing(&listed));
    }
    state.close().await;
}

#[test]
fn promise_5_killed_at_any_moment_numbers_rise_lists_are_whole_and_nothing_is_missing() {
    let kills: u64 = if std::env::var_os("JARCHY_LONG").is_some() { 200 } else { 20 };
    let mut random = 20_261_122_u64;
    println!("seed {random}, {kills} kills");
    let (work, dir) = Demo::copied();
    // So that starts begin with a file of the index: with the one of this first end, or of a second before a kill.
    let config = std::fs::read_to_string(dir.join("jarchy.toml")).unwrap();
    let often = config.replace("#snapshot_interval = \"15m\"", "snapshot_interval = \"1s\"");
    assert!(often != config, "{config}");
    std::fs::write(dir.join("jarchy.toml"), often).unwrap();
    Server::start(&["demo", "--dir", text(&dir), "--listen", "127.0.0.1:0"], &work.path().join("log")).stop();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let issuer: IssuerName = "demo".parse().unwrap();
    let audit = Audit { actor: "crash test".to_owned(), received_at: now() };
    let certificate = Certificate::from_file_bytes(&std::fs::read(dir.join("ca.pem")).unwrap()).unwrap();
    let registry = runtime.block_on(Registry::open(&dir.join("issuance.db"))).unwrap();
    let first: Vec<_> = (0..FIRST).map(|n| revoked(&issuer, n)).collect();
    let added = runtime.block_on(registry.add(&first, &audit)).unwrap();
    assert!(added.iter().all(Result::is_ok));
    let ended = Certificate::from_file_bytes(&std::fs::read(dir.join("expired-revoked.pem")).unwrap()).unwrap();
    let mut seen = Seen { ended: BTreeSet::from([ended.serial()]), ..Seen::default() };
    let mut told = FIRST;
    let mut while_serving = 0;
    // How long it takes from the start to the list with the news: kills are spread over all of it, and beyond.
    let mut whole = Duration::from_millis(1_500);
    for _ in 0..kills {
        runtime.block_on(registry.add(&[revoked(&issuer, told)], &audit)).unwrap();
        told += 1;
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let delay = whole.mul_f64(1.3 * f64::from(u32::try_from(random >> 32).unwrap()) / f64::from(u32::MAX));
        let begun = Instant::now();
        let mut process = Process::start(&dir, &work.path().join("log"));
        let (mut url, mut early) = (None, true);
        while begun.elapsed() < delay {
            let left = delay.saturating_sub(begun.elapsed());
            if url.is_none() {
                url = process.url.recv_timeout(left).ok();
            }
            if let Some(list) = url.as_deref().and_then(served) {
                seen.take(&list);
                if seen.listed.contains(&serial(told - 1)) {
                    whole = begun.elapsed().max(Duration::from_millis(100));
                    while_serving += 1;
                    early = false;
                    break;
                }
            }
            thread::sleep(Duration::from_millis(2));
        }
        if early {
            // On a machine that has become slower the kills must reach as far into the work as before.
            whole = whole.mul_f64(1.1).min(Duration::from_secs(10));
        }
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        runtime.block_on(check(&dir, &seen, &certificate));
    }
    println!("{while_serving} kills came after the news were served, {} lists were seen", seen.served.len());
    let server = Server::start(&["demo", "--dir", text(&dir), "--listen", "127.0.0.1:0"], &work.path().join("log"));
    crate::harness::wait_until("all is listed", || {
        let list = served(&server.url).ok_or("no list")?;
        seen.take(&list);
        let missing = (0..told).filter(|n| !seen.listed.contains(&serial(*n))).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) }
    });
    assert!(while_serving > 0, "no kill came late enough to have seen a list");
    let from_file = server.log().matches("the index was read from its file").count();
    assert!(from_file > 1, "{from_file} of {kills} starts began with the index's file");
    runtime.block_on(registry.close());
    server.stop();
}

#[test]
fn a_second_publisher_on_the_same_state_is_refused_and_told_by_whom() {
    let demo = Demo::start();
    let said = jarchy(&["serve", "--config", &demo.config(), "--listen", "127.0.0.1:0"]);
    let refused = if said.err.contains("unexpected argument") {
        // Another port by another config.
        let config = std::fs::read_to_string(demo.config()).unwrap();
        let other = demo.dir.join("other.toml");
        let lines =
            config.lines().map(|line| if line.starts_with("listen = ") { "listen = \"127.0.0.1:0\"" } else { line });
        std::fs::write(&other, lines.collect::<Vec<_>>().join("\n")).unwrap();
        jarchy(&["serve", "--config", text(&other)])
    } else {
        said
    };
    assert!(!refused.status.success());
    for part in ["only one process may publish CRLs from one state store", "is held by process "] {
        assert!(refused.err.contains(part), "{refused:?}");
    }
    assert!(demo.server.headers("/crl/demo.crl", &[]).contains(" 200 "), "the first goes on");
}
