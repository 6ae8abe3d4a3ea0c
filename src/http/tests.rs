//! The public listener as a client sees it: through a socket, byte by byte.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::server::{BindError, Limits, Server, bind};
use super::{Files, Lists, PartList, Site};
use crate::crl::{Published, Shelf};
use crate::der::{self, tag};
use crate::health::Health;
use crate::index::{Index, Record};
use crate::metrics::{Cut, Document, Method, Metrics, Purpose};
use crate::ocsp::request::{Limits as RequestLimits, encode, encode_cert_id};
use crate::ocsp::response::{CertStatus, Failure, Parsed, parse};
use crate::ocsp::{Authority, Credential, LiveRate, Policy, Responder};
use crate::pki::hash::sha256;
use crate::pki::{Certificate, Clock, HashAlgorithm, Issuer, ManualClock, Reason, Revocation, Serial, Status, Time};
use crate::sign::Signer;
use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A test that waits this long for something has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(150);
const NOW: i64 = 1_795_000_100;
const CERTIFICATE: &[u8] = b"certificate";
const MALFORMED: &[u8] = b"\x30\x03\x0a\x01\x01";
const INTERNAL_ERROR: &[u8] = b"\x30\x03\x0a\x01\x02";

/// A server that runs, with an issuer `demo` and one, `bare`, without CRLs.
struct Running {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    metrics: Metrics,
    health: Health,
    shelf: Arc<Shelf>,
    index: Arc<Index>,
    clock: Arc<ManualClock>,
    server: Server,
    site: Arc<ArcSwap<Site>>,
}

impl Running {
    /// Requests that were answered without hyper.
    fn plain(&self) -> usize {
        self.site.load().plain.load(Ordering::Relaxed)
    }

    /// Nothing is answered about serial 1 before that second.
    fn revoke_at(&self, second: i64) {
        let (not_before, not_after, since) = (Time::default(), Time::MAX, Time::from_unix(second));
        let revocation = Revocation { at: since, reason: Reason::Superseded, invalidity_date: None };
        let record = Record { not_before, not_after, status: Status::Revoked(revocation), since, sha256: None };
        self.index.apply(&[(Serial::from_content(&[1]).unwrap(), record)]);
    }

    /// Requests by `POST` that were taken.
    fn posts(&self) -> u64 {
        self.metrics.methods.get(Method::Post)
    }
}

fn start(limits: Limits) -> Running {
    start_with(Files::new(None, Bytes::from_static(CERTIFICATE), Duration::from_secs(30)), limits)
}

/// `files` are those of `demo`, and get a shelf.
fn start_with(files: Files, limits: Limits) -> Running {
    start_keeping(1 << 20, files, limits)
}

/// With so much memory for answers.
fn start_keeping(cache_bytes: usize, files: Files, limits: Limits) -> Running {
    start_signing(LiveRate { issuer: 1_000_000_000, client: 1_000_000_000 }, cache_bytes, files, limits)
}

/// With so many signatures a second for single requests.
fn start_signing(live_rate: LiveRate, cache_bytes: usize, files: Files, limits: Limits) -> Running {
    let (metrics, health, shelf) = (Metrics::new(), Health::new(), Arc::new(Shelf::default()));
    let issuers = BTreeMap::from([
        ("demo".parse().unwrap(), Files { whole: Some(Lists::new(Arc::clone(&shelf))), ..files }),
        ("bare".parse().unwrap(), Files::new(None, Bytes::from_static(b"other"), Duration::from_secs(30))),
    ]);
    let clock = Arc::new(ManualClock::new(Time::from_unix(NOW)));
    let index = Arc::new(Index::new());
    let policy = Policy { live_rate, ..Policy::default() };
    let responder = responder(Arc::clone(&index), Arc::clone(&clock), policy, cache_bytes, metrics.clone());
    let site = Site::new(Arc::new(responder), issuers, Arc::clone(&clock) as Arc<dyn Clock>, metrics.clone());
    let (stop, stopped) = watch::channel(false);
    let listeners = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
    let site = Arc::new(ArcSwap::from_pointee(site));
    let server = Server::start(listeners, Arc::clone(&site), limits, &metrics, &health, &stopped).unwrap();
    Running { address: server.address(), stop, metrics, health, shelf, index, clock, server, site }
}

/// Answers for the issuer `demo`, under the CA's own key: serial 1 is good.
fn responder(
    index: Arc<Index>,
    clock: Arc<ManualClock>,
    policy: Policy,
    cache_bytes: usize,
    metrics: Metrics,
) -> Responder {
    let now = Time::from_unix(NOW);
    let certificate = Certificate::from_der(&CA.certificate).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(CA.key.as_bytes()).unwrap();
    let signer = Signer::from_file(file.path(), &certificate).unwrap();
    let (not_before, not_after) = (Time::default(), Time::MAX);
    let record = Record { not_before, not_after, status: Status::Good, since: Time::default(), sha256: None };
    index.apply(&[(Serial::from_content(&[1]).unwrap(), record)]);
    index.vouch(now);
    index.set_complete();
    let issuer = Arc::new(Issuer { name: "demo".parse().unwrap(), certificate });
    let authority =
        Authority::new(issuer, index, vec![Credential::new(1, Arc::new(signer), None)], policy, now).unwrap();
    Responder::new(vec![authority], cache_bytes, RequestLimits::default(), clock, metrics)
}

struct Ca {
    certificate: Vec<u8>,
    key: String,
}

/// With Ed25519 the same answer has the same signature.
static CA: LazyLock<Ca> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
    Ca { certificate: parameters.self_signed(&key).unwrap().der().to_vec(), key: key.serialize_pem() }
});

/// A list of `octets` octets whose number is `ahead` of its thisUpdate.
fn list(octets: usize, ahead: u64) -> Published {
    let bytes = Bytes::from(vec![0x5a; octets]);
    let this_update = NOW - 40;
    Published {
        number: u64::try_from(this_update).unwrap() + ahead,
        this_update: Time::from_unix(this_update),
        next_update: Time::from_unix(NOW + 20),
        etag: super::quoted_hex(&sha256(&bytes)),
        bytes,
    }
}

/// A request for serial 1. The hash of a random CA's name and key need not contain a plus or slash in
/// base64; the requestor's name does.
fn request() -> Vec<u8> {
    let certificate = Certificate::from_der(&CA.certificate).unwrap();
    let issuer = Issuer { name: "demo".parse().unwrap(), certificate };
    let hashes = issuer.hashes(HashAlgorithm::Sha1);
    let octets = |bytes: &[u8]| der::element(tag::OCTET_STRING, &[bytes]);
    let algorithm = der::element(tag::SEQUENCE, &[HashAlgorithm::Sha1.oid(), &[tag::NULL, 0]]);
    let (name, key) = (octets(&hashes.name), octets(&hashes.key));
    let cert_id = der::element(tag::SEQUENCE, &[&algorithm, &name, &key, &[tag::INTEGER, 1, 1]]);
    let list = der::element(tag::SEQUENCE, &[&der::element(tag::SEQUENCE, &[&cert_id])]);
    let requestor = der::element(0x86, &[&[0, 0xfb, 0xef, 0xbe, 0xff, 0xff, 0xff]]);
    let requestor = der::element(tag::explicit(1), &[&requestor]);
    der::element(tag::SEQUENCE, &[&der::element(tag::SEQUENCE, &[&requestor, &list])])
}

struct Answer {
    status: u16,
    version: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
        self
    }

    fn head(&mut self) -> Answer {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "closed inside a head, after {lines:?}");
            if line == "\r\n" {
                break;
            }
            lines.push(line.strip_suffix("\r\n").expect("a line of a head").to_owned());
        }
        let mut first = lines[0].splitn(3, ' ');
        let (version, status) = (first.next().unwrap().to_owned(), first.next().unwrap().parse().unwrap());
        let mut headers = HashMap::new();
        for (name, value) in lines[1..].iter().map(|line| line.split_once(": ").unwrap()) {
            assert!(headers.insert(name.to_ascii_lowercase(), value.to_owned()).is_none(), "{name} twice");
        }
        Answer { status, version, headers, body: Vec::new() }
    }

    fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        answer.body.resize(answer.headers.get("content-length").map_or(0, |length| length.parse().unwrap()), 0);
        self.0.read_exact(&mut answer.body).unwrap();
        answer
    }

    fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.send(bytes).answer()
    }

    /// Waits until the server has closed; what came before that.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
        rest
    }

    fn is_closed(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.rest()), "");
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn wait_until(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain");
        thread::yield_now();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn http_01_get_and_post_say_the_same_on_one_connection() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    let posted = client.ask(post("/ocsp", &request()));
    assert_eq!((posted.status, posted.version.as_str()), (200, "HTTP/1.1"));
    assert_eq!(posted.header("content-type"), "application/ocsp-response");
    assert_eq!(posted.header("transfer-encoding"), "");
    assert!(!posted.header("date").is_empty());
    assert_ne!(posted.body, MALFORMED);
    let base64 = STANDARD.encode(request());
    assert!(base64.contains('/') && base64.contains('+'), "{base64}");
    let escaped = base64.replace('/', "%2f").replace('+', "%2B").replace('=', "%3D");
    let spaced = base64.replace('+', " ");
    for path in [
        format!("/ocsp/{base64}"),
        format!("/ocsp//{escaped}"),
        format!("http://a/ocsp/{base64}"),
        format!("/ocsp/{spaced}"),
    ] {
        assert_eq!(client.ask(get(&path)).body, posted.body, "{path}");
    }
    for path in ["/ocsp/", "/ocsp/demo", "/ocsp/demo/"] {
        assert_eq!(client.ask(post(path, &request())).status, 200, "{path}");
    }
    assert_eq!(client.ask(get(&format!("/ocsp/demo/{base64}"))).status, 200);
}

#[test]
fn ocsp_28_what_is_no_request_is_malformed_under_200_and_not_stored() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    let with_query = format!("/ocsp/{}?1", STANDARD.encode(request()));
    for path in ["/ocsp", "/ocsp/", "/ocsp/demo", "/ocsp/%ff", "/ocsp/a.b", "/ocsp/other/MA==", &with_query] {
        let answer = client.ask(get(path));
        assert_eq!((answer.status, answer.body.as_slice()), (200, MALFORMED), "{path}");
        assert_eq!(answer.header("content-type"), "application/ocsp-response");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("etag"), "");
    }
    assert_eq!(client.ask(post("/ocsp", b"")).body, MALFORMED);
    assert_eq!(client.ask(post("/ocsp", b"x=y")).body, MALFORMED);
    assert_eq!(client.ask(post("/ocsp/other", &request())).status, 404);
}

#[test]
fn http_09_clients_of_1_0_are_closed_after_an_answer_unless_they_ask_otherwise() {
    let running = start(Limits::default());
    let body = request();
    let mut client = Client::connect(running.address);
    let head = format!("POST /ocsp HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
    let answer = client.ask([head.as_bytes(), &body].concat());
    assert_eq!((answer.status, answer.version.as_str()), (200, "HTTP/1.0"));
    assert!(!answer.header("content-length").is_empty());
    client.is_closed();
    let mut client = Client::connect(running.address);
    for _ in 0..2 {
        let answer = client.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!((answer.status, answer.header("connection")), (200, "keep-alive"));
    }
}

#[test]
fn who_closes_the_sending_side_is_answered_all_the_same() {
    let running = start(Limits::default());
    running.shelf.put_complete(list(32 << 20, 0));
    let mut client = Client::connect(running.address);
    client.send(get("/crl/demo.crl")).send(post("/ocsp", &request()));
    client.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer().body.len(), 32 << 20);
    assert_eq!(client.answer().status, 200);
    client.is_closed();
    wait_until(|| running.metrics.connections.open.get() == 0);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    let all = [post("/ocsp", &request()), get("/crl/none.crl").into(), post("/ocsp", b"?"), get("/ca/demo.cer").into()];
    client.send(all.concat());
    assert_ne!(client.answer().body, MALFORMED);
    assert_eq!(client.answer().status, 404);
    assert_eq!(client.answer().body, MALFORMED);
    assert_eq!(client.answer().body, CERTIFICATE);
}

#[test]
fn http_10_a_chunked_or_announced_body_is_taken_whatever_its_type() {
    let running = start(Limits::default());
    let body = request();
    let mut client = Client::connect(running.address);
    let head = format!("POST /ocsp HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len());
    assert_eq!(client.send(head).head().status, 100);
    let announced = client.send(&body).answer();
    assert_eq!(announced.status, 200);
    let mut chunked = b"POST /ocsp HTTP/1.1\r\nContent-Type: text/x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(7) {
        write!(chunked, "{:x}\r\n", chunk.len()).unwrap();
        chunked.extend(chunk);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let answer = client.ask(chunked);
    assert_eq!(answer.body, announced.body);
    assert_eq!(answer.header("connection"), "close");
    client.is_closed();
}

#[test]
fn http_17_head_says_what_get_would() {
    let running = start(Limits::default());
    running.shelf.put_complete(list(1000, 0));
    let mut client = Client::connect(running.address);
    let path = format!("/ocsp/{}", STANDARD.encode(request()));
    for path in [path.as_str(), "/crl/demo.crl", "/ca/demo.cer", "/", "/nothing"] {
        let got = client.ask(get(path));
        let headers = client.send(format!("HEAD {path} HTTP/1.1\r\n\r\n")).head();
        assert_eq!(headers.status, got.status);
        for name in ["content-type", "content-length", "etag", "cache-control", "expires", "last-modified"] {
            assert_eq!(headers.header(name), got.header(name), "{path} {name}");
        }
    }
    // Nothing was sent after those heads.
    assert_eq!(client.ask(get("/ca/demo.cer")).body, CERTIFICATE);
}

#[test]
fn wrong_methods_are_told_which_are_right() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    for (method, path, allow) in [
        ("PUT", "/ocsp", "GET, HEAD, POST"),
        ("OPTIONS", "/ocsp/demo", "GET, HEAD, POST"),
        ("POST", "/crl/demo.crl", "GET, HEAD"),
        ("DELETE", "/ca/demo.cer", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
    ] {
        let answer = client.ask(format!("{method} {path} HTTP/1.1\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!((answer.status, answer.header("allow")), (405, allow), "{method} {path}");
    }
    for path in ["/x", "/crl/other.crl", "/crl/demo/1.crl", "/crl/bare.crl", "/ca/other.cer", "/ocsp.html", "//"] {
        let answer = client.ask(get(path));
        assert_eq!((answer.status, answer.header("cache-control")), (404, "no-store"), "{path}");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    }
    let index = String::from_utf8(client.ask(get("/")).body).unwrap();
    assert!(index.contains("/crl/demo-delta.crl") && index.contains("/ocsp/bare") && !index.contains("/crl/bare"));
}

#[test]
fn http_12_answers_that_may_be_kept_say_for_how_long_and_304_knows_them_again() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    let path = format!("/ocsp/{}", STANDARD.encode(request()));
    let answer = client.ask(get(&path));
    let tag = answer.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.len() == 50, "{tag}");
    let (age, rest) = answer.header("cache-control").split_once(", ").unwrap();
    assert_eq!(rest, "public, no-transform, must-revalidate");
    let age: u32 = age.strip_prefix("max-age=").unwrap().parse().unwrap();
    assert!((52..=60).contains(&age), "{age}");
    assert!(!answer.header("expires").is_empty() && !answer.header("last-modified").is_empty());
    // A revoked answer may have been signed in the same second as a good one (promise 4).
    conditions(&mut client, &path, &answer, false);
    // A POST has no conditions.
    let body = request();
    let head = format!("POST /ocsp HTTP/1.1\r\nIf-None-Match: *\r\nContent-Length: {}\r\n\r\n", body.len());
    let posted = client.ask([head.as_bytes(), &body].concat());
    assert_eq!((posted.status, posted.header("etag")), (200, tag.as_str()));
}

/// The path of a `GET` for `serial` of the issuer `demo`, without anything else.
fn path_of(serial: Serial, nonce: Option<&[u8]>) -> String {
    let certificate = Certificate::from_der(&CA.certificate).unwrap();
    let hashes = Issuer { name: "demo".parse().unwrap(), certificate }.hashes(HashAlgorithm::Sha1);
    let request = encode(&encode_cert_id(&hashes, serial.as_bytes()), nonce);
    format!("/ocsp/{}", STANDARD.encode(request))
}

#[test]
fn promise_4_no_304_keeps_a_good_answer_alive_after_the_revocation() {
    const CERTIFICATES: usize = 300;
    let running = start(Limits::default());
    let serial = |n: usize| Serial::from_magnitude(&[0x55, n.to_le_bytes()[1], n.to_le_bytes()[0]]).unwrap();
    let record = |status, since| {
        let (not_before, not_after) = (Time::default(), Time::MAX);
        Record { not_before, not_after, status, since, sha256: None }
    };
    running.index.load((0..CERTIFICATES).map(|n| (serial(n), record(Status::Good, Time::default()))).collect());
    let revoked: Vec<AtomicBool> = (0..CERTIFICATES).map(|_| AtomicBool::new(false)).collect();
    let (done, not_modified) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for thread in 0..3 {
            let (running, revoked, done, not_modified) = (&running, &revoked, &done, &not_modified);
            scope.spawn(move || {
                let mut client = Client::connect(running.address);
                // What an HTTP cache would keep: the validators of the last answer, if that was good.
                let mut known: HashMap<usize, (String, String)> = HashMap::new();
                let mut n = thread * 97;
                while !done.load(Ordering::SeqCst) {
                    n = (n * 31 + 7 + thread) % CERTIFICATES;
                    let condition = known.get(&n).map_or_else(String::new, |(tag, date)| match n % 3 {
                        0 => format!("If-None-Match: {tag}\r\n"),
                        1 => format!("If-Modified-Since: {date}\r\n"),
                        _ => format!("If-None-Match: {tag}\r\nIf-Modified-Since: {date}\r\n"),
                    });
                    let was_revoked = revoked[n].load(Ordering::SeqCst);
                    let path = path_of(serial(n), None);
                    let answer = client.ask(format!("GET {path} HTTP/1.1\r\n{condition}\r\n"));
                    if answer.status == 304 {
                        assert!(!was_revoked, "{n} is revoked, and its good answer is said to stand");
                        not_modified.fetch_add(1, Ordering::SeqCst);
                        continue;
                    }
                    let Parsed::Basic(basic) = parse(&answer.body).unwrap() else { panic!("an error") };
                    let is_good = basic.singles[0].status == CertStatus::Good;
                    assert!(!(was_revoked && is_good), "{n} is revoked");
                    known.remove(&n);
                    if is_good {
                        let validators = ["etag", "last-modified"].map(|name| answer.header(name).to_owned());
                        known.insert(n, validators.into());
                    }
                }
            });
        }
        let revocation = Revocation { at: Time::from_unix(NOW), reason: Reason::KeyCompromise, invalidity_date: None };
        for (n, revoked) in revoked.iter().enumerate() {
            // The clients have something in their caches by then.
            let before = not_modified.load(Ordering::SeqCst);
            wait_until(|| n % 30 != 0 || not_modified.load(Ordering::SeqCst) > before + 20);
            let now = Time::from_unix(NOW);
            running.index.apply(&[(serial(n), record(Status::Revoked(revocation), now))]);
            revoked.store(true, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(not_modified.load(Ordering::SeqCst) > 200);
}

#[test]
fn promise_4_no_date_keeps_a_good_answer_alive_that_was_signed_in_the_second_of_the_revoked_one() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    let serial = |n| Serial::from_content(&[2, n]).unwrap();
    let record = |status, since| {
        let (not_before, not_after) = (Time::default(), Time::MAX);
        Record { not_before, not_after, status, since, sha256: None }
    };
    let revocation = Revocation { at: Time::from_unix(NOW), reason: Reason::KeyCompromise, invalidity_date: None };
    for n in 0..20 {
        running.index.apply(&[(serial(n), record(Status::Good, Time::default()))]);
        let path = path_of(serial(n), None);
        let good = client.ask(get(&path));
        // Learned in the second before, known here only after that answer was signed.
        running.index.apply(&[(serial(n), record(Status::Revoked(revocation), Time::from_unix(NOW - 1)))]);
        let revoked = client.ask(get(&path));
        assert_eq!(good.header("last-modified"), revoked.header("last-modified"));
        let condition = format!("If-Modified-Since: {}", good.header("last-modified"));
        assert_eq!(client.ask(format!("GET {path} HTTP/1.1\r\n{condition}\r\n\r\n")).status, 200);
    }
}

#[test]
fn http_16_and_sec_11_what_is_for_one_client_alone_is_not_stored() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    let serial = Serial::from_content(&[1]).unwrap();
    let with_nonce = client.ask(get(&path_of(serial, Some(&[7; 32]))));
    assert_eq!((with_nonce.status, with_nonce.header("cache-control")), (200, "no-store"));
    assert_eq!((with_nonce.header("etag"), with_nonce.header("expires")), ("", ""));
    let absent = client.ask(get(&path_of(Serial::from_content(&[2]).unwrap(), None)));
    assert_eq!((absent.status, absent.header("cache-control")), (200, "no-store"));
    assert_eq!(absent.body, b"\x30\x03\x0a\x01\x06");
}

#[test]
fn http_12_14_dates_in_the_headers_are_those_of_the_response() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    let answer = client.ask(get(&path_of(Serial::from_content(&[1]).unwrap(), None)));
    let Parsed::Basic(basic) = parse(&answer.body).unwrap() else { panic!("an error") };
    let date = |time: Time| String::from_utf8(time.http_date().to_vec()).unwrap();
    assert_eq!(answer.header("expires"), date(basic.singles[0].next_update));
    assert_eq!(answer.header("last-modified"), date(basic.produced_at));
    // Ours and hyper's, and no others (HTTP-21).
    let mut names: Vec<_> = answer.headers.keys().map(String::as_str).collect();
    names.sort_unstable();
    let expected = ["cache-control", "content-length", "content-type", "date", "etag", "expires", "last-modified"];
    assert_eq!(names, expected);
    assert!(answer.body.len() + 500 < 10 << 10, "HTTP-19");
}

#[test]
fn http_21_and_sec_11_nothing_but_the_request_itself_makes_a_difference() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    let path = path_of(Serial::from_content(&[1]).unwrap(), None);
    let plain = client.ask(get(&path));
    for header in [
        "User-Agent: Mozilla/5.0",
        "Cookie: a=b",
        "Accept: text/html",
        "Accept-Encoding: gzip, br",
        "Accept-Language: tr",
        "X-Forwarded-Host: evil.example",
        "X-Original-URL: /ca/demo.cer",
        "Range: bytes=0-1",
        "Authorization: Basic YTpi",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
    ] {
        let answer = client.ask(format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n{header}\r\n\r\n"));
        assert_eq!((answer.status, &answer.body), (200, &plain.body), "{header}");
        for (name, value) in plain.headers.iter().filter(|(name, _)| *name != "date") {
            assert_eq!(answer.header(name), value, "{header}: {name}");
        }
    }
}

#[test]
fn sec_09_nothing_of_a_request_gets_into_a_head() {
    let running = start(Limits::default());
    for sent in [
        "GET /ocsp/%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\n\r\n",
        "GET /crl/%0d%0aSet-Cookie:%20a=b.crl HTTP/1.1\r\n\r\n",
        "GET /nothing?Set-Cookie HTTP/1.1\r\nX: Set-Cookie\r\n\r\n",
        "PUT /Set-Cookie HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    ] {
        let answer = Client::connect(running.address).ask(sent);
        let text = format!("{:?}", answer.headers).to_lowercase();
        assert!(!text.contains("cookie") && !text.contains("location"), "{sent:?}: {text}");
        assert!((200..500).contains(&answer.status) && !(300..400).contains(&answer.status), "HTTP-07: {sent:?}");
    }
}

#[test]
fn sec_10_every_spelling_of_a_request_is_one_entry_of_the_cache() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    let base64 = STANDARD.encode(request());
    let first = client.ask(get(&format!("/ocsp/{base64}"))).body;
    for spelling in [
        base64.replace('/', "%2f"),
        base64.replace('/', "%2F").replace('+', "%2b"),
        base64.replace('+', "%20"),
        base64.replace('+', "-").replace('/', "_"),
        base64.trim_end_matches('=').to_owned(),
        format!("//{base64}"),
    ] {
        assert_eq!(client.ask(get(&format!("/ocsp/{spelling}"))).body, first, "{spelling}");
    }
    assert_eq!(running.metrics.signatures.get(Purpose::Ocsp), 1);
}

/// Asks for `path` under conditions, as one who has `known`.
fn conditions(client: &mut Client, path: &str, known: &Answer, is_only_version: bool) {
    let (tag, date) = (known.header("etag"), known.header("last-modified"));
    let by_date = if is_only_version { 304 } else { 200 };
    for (headers, status) in [
        (format!("If-None-Match: {tag}"), 304),
        (format!("If-None-Match: W/{tag}"), 304),
        ("If-None-Match: *".to_owned(), 304),
        (format!("If-None-Match: \"x\", {tag}"), 304),
        (format!("If-None-Match: \"x\"\r\nIf-None-Match: {tag}"), 304),
        ("If-None-Match: \"x\"".to_owned(), 200),
        (format!("If-None-Match: {}", tag.trim_matches('"')), 200),
        (format!("If-Modified-Since: {date}"), by_date),
        (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}"), 200),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), 200),
        ("If-Modified-Since: Fri, 31 Dec 9999 23:59:59 GMT".to_owned(), 200),
        ("If-Modified-Since: yesterday".to_owned(), 200),
    ] {
        let answer = client.ask(format!("GET {path} HTTP/1.1\r\n{headers}\r\n\r\n"));
        assert_eq!(answer.status, status, "{path} {headers}");
        for name in ["etag", "cache-control", "expires", "last-modified"] {
            assert_eq!(answer.header(name), known.header(name), "{path} {headers}: {name}");
        }
        assert_eq!(answer.body.is_empty(), status == 304);
    }
}

#[test]
fn crl_92_lists_are_served_with_validators_and_short_lives() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    let early = client.ask(get("/crl/demo.crl"));
    assert_eq!((early.status, early.header("retry-after"), early.header("cache-control")), (503, "5", "no-store"));
    running.shelf.put_complete(list(300_000, 0));
    let answer = client.ask(get("/crl/demo.crl"));
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/pkix-crl"));
    assert_eq!((answer.header("content-length"), answer.body.len()), ("300000", 300_000));
    // 30 s were asked for, and nextUpdate is 20 s away.
    assert_eq!(answer.header("cache-control"), "max-age=20, public, no-transform, must-revalidate");
    let date = |seconds| String::from_utf8(Time::from_unix(seconds).http_date().to_vec()).unwrap();
    assert_eq!((answer.header("last-modified"), answer.header("expires")), (&*date(NOW - 40), &*date(NOW + 20)));
    conditions(&mut client, "/crl/demo.crl", &answer, true);
    // By its number it is the second of its second.
    running.shelf.put_complete(list(1000, 1));
    let answer = client.ask(get("/crl/demo.crl"));
    conditions(&mut client, "/crl/demo.crl", &answer, false);
    let numbered = format!("/crl/demo/{}.crl", NOW - 39);
    assert_eq!(client.ask(get(&numbered)).body, answer.body);
    assert_eq!(client.ask(get("/crl/demo-delta.crl")).status, 503);
    assert!(running.metrics.documents.get(Document::Complete) > 2);
    let certificate = client.ask(get("/ca/demo.cer"));
    assert_eq!((certificate.header("content-type"), &*certificate.body), ("application/pkix-cert", CERTIFICATE));
    assert_eq!(certificate.header("cache-control"), "max-age=3600, public, no-transform, must-revalidate");
}

#[test]
fn sec_11_no_refusal_is_kept_for_others() {
    let running = start(Limits::default());
    running.shelf.put_complete(list(1000, 0));
    let mut client = Client::connect(running.address);
    for path in ["/crl/demo.crl", "/crl/demo.crl.pem", "/ca/demo.cer"] {
        for (header, status) in [("If-Match: \"x\"", 412), ("Range: bytes=9999-", 416)] {
            let answer = client.ask(format!("GET {path} HTTP/1.1\r\n{header}\r\n\r\n"));
            assert_eq!((answer.status, answer.header("cache-control")), (status, "no-store"), "{path} {header}");
            assert_eq!(answer.header("expires"), "");
        }
    }
}

#[test]
fn crl_92_a_part_of_a_list_is_sent_to_whom_it_continues() {
    let running = start(Limits::default());
    let bytes: Vec<u8> = (0..600_000_u32).map(|n| n.to_be_bytes()[3] ^ n.to_be_bytes()[2]).collect();
    let whole = Published { bytes: Bytes::from(bytes.clone()), ..list(600_000, 0) };
    let tag = whole.etag.clone();
    running.shelf.put_complete(whole);
    let mut client = Client::connect(running.address);
    let mut ask = |method: &str, headers: &str| {
        let sent = client.send(format!("{method} /crl/demo.crl HTTP/1.1\r\n{headers}\r\n\r\n"));
        if method == "HEAD" { sent.head() } else { sent.answer() }
    };
    let date = String::from_utf8(Time::from_unix(NOW - 40).http_date().to_vec()).unwrap();
    assert_eq!(ask("GET", "X: y").header("accept-ranges"), "bytes");
    for (range, octets) in [("0-9", 0..10), ("599000-", 599_000..600_000), ("-300000", 300_000..600_000)] {
        for condition in [String::new(), format!("\r\nIf-Range: {tag}"), format!("\r\nIf-Range: {date}")] {
            let answer = ask("GET", &format!("Range: bytes={range}{condition}"));
            assert_eq!((answer.status, answer.header("etag")), (206, &*tag), "{range}{condition}");
            let said = format!("bytes {}-{}/600000", octets.start, octets.end - 1);
            assert_eq!(answer.header("content-range"), said);
            assert!(answer.body == bytes[octets.clone()] && answer.header("cache-control").starts_with("max-age=20,"));
        }
    }
    let beyond = ask("GET", "Range: bytes=600000-");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */600000"));
    assert_eq!(beyond.header("cache-control"), "no-store");
    // Who has part of another version gets all of this one; weak tags prove nothing.
    for condition in ["\"x\"", &format!("W/{tag}"), "Sun, 06 Nov 1994 08:49:37 GMT", "yesterday"] {
        let answer = ask("GET", &format!("Range: bytes=0-9\r\nIf-Range: {condition}"));
        assert_eq!((answer.status, answer.body.len()), (200, 600_000), "{condition}");
    }
    assert_eq!(ask("GET", "Range: bytes=0-9, 20-29").status, 200);
    assert_eq!(ask("GET", &format!("Range: bytes=0-9\r\nIf-None-Match: {tag}")).status, 304);
    let head = ask("HEAD", "Range: bytes=0-9");
    assert_eq!((head.status, head.header("content-length")), (200, "600000"));
    for (condition, status) in [
        (format!("If-Match: {tag}"), 200),
        ("If-Match: *".to_owned(), 200),
        (format!("If-Match: \"x\", {tag}"), 200),
        ("If-Match: \"x\"".to_owned(), 412),
        (format!("If-Match: W/{tag}"), 412),
        (format!("If-Unmodified-Since: {date}"), 200),
        ("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), 412),
        (format!("If-Match: {tag}\r\nIf-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT"), 200),
    ] {
        assert_eq!(ask("GET", &condition).status, status, "{condition}");
    }
}

#[test]
fn lists_are_served_as_pem_too_under_a_tag_of_their_own() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    assert_eq!(client.ask(get("/crl/demo.crl.pem")).status, 503);
    for octets in [500, 500_000] {
        running.shelf.put_complete(list(octets, 0));
        let (der, pem) = (client.ask(get("/crl/demo.crl")), client.ask(get("/crl/demo.crl.pem")));
        assert_eq!((pem.status, pem.header("content-type")), (200, "application/x-pem-file"));
        assert_eq!(pem.header("etag"), format!("{}-pem\"", der.header("etag").trim_end_matches('"')));
        let text = String::from_utf8(pem.body.clone()).unwrap();
        let inner = text.strip_prefix("-----BEGIN X509 CRL-----\n").unwrap();
        let inner = inner.strip_suffix("-----END X509 CRL-----\n").unwrap().replace('\n', "");
        assert_eq!(STANDARD.decode(inner).unwrap(), der.body);
        for name in ["last-modified", "cache-control", "expires"] {
            assert_eq!(pem.header(name), der.header(name));
        }
        conditions(&mut client, "/crl/demo.crl.pem", &pem, true);
    }
    assert_eq!(client.ask(get("/crl/demo-delta.crl.pem")).status, 503);
    for path in ["/crl/other.crl.pem", "/crl/bare.crl.pem", "/crl/demo/1.crl.pem", "/crl/demo.pem"] {
        assert_eq!(client.ask(get(path)).status, 404, "{path}");
    }
}

#[test]
fn http_20_who_waits_for_an_answer_that_does_not_come_is_told_to_try_later() {
    let running = start(Limits { answer_time: Duration::from_millis(100), ..Limits::default() });
    // The clock of this test never comes to that second.
    running.revoke_at(NOW + 1);
    let mut client = Client::connect(running.address);
    let answer = client.ask(post("/ocsp", &request()));
    assert_eq!((answer.status, &answer.body[..]), (200, Failure::TryLater.der()));
    // The connection goes on, and so does everything else.
    assert_eq!(client.ask(get("/ca/demo.cer")).status, 200);
    assert!(running.metrics.encode().contains("try_later"), "it is counted");
}

#[test]
fn crl_71_the_list_of_a_part_stands_under_its_name_and_where_certificates_say() {
    let parts = ["shard-7", "user"].map(|name| PartList {
        name: name.to_owned(),
        path: (name == "user").then(|| "/lists/of/users.crl".to_owned()),
        shelf: Arc::new(Shelf::default()),
    });
    let shelves = parts.clone().map(|part| part.shelf);
    let files = Files::new(None, Bytes::new(), Duration::from_secs(30)).with_parts(parts.to_vec());
    let running = start_with(files, Limits::default());
    let mut client = Client::connect(running.address);
    assert_eq!(client.ask(get("/crl/demo/user.crl")).status, 503);
    for (octets, shelf) in [100, 200].into_iter().zip(&shelves) {
        shelf.put_complete(list(octets, 0));
    }
    let number = list(1, 0).number;
    for (path, octets) in [
        ("/crl/demo/shard-7.crl".to_owned(), 100),
        ("/crl/demo/user.crl".to_owned(), 200),
        ("/lists/of/users.crl".to_owned(), 200),
        (format!("/crl/demo/user/{number}.crl"), 200),
    ] {
        let answer = client.ask(get(&path));
        assert_eq!((answer.status, answer.body.len()), (200, octets), "{path}");
        if path.starts_with("/crl") {
            let text = client.ask(get(&format!("{path}.pem")));
            assert_eq!((text.status, text.header("content-type")), (200, "application/x-pem-file"), "{path}");
            assert!(text.body.starts_with(b"-----BEGIN X509 CRL-----\n"), "{path}");
        }
    }
    for path in ["/crl/demo/shard-07.crl", "/crl/demo/ca.crl", "/crl/bare/user.crl", "/lists/of/users.crl.pem"] {
        assert_eq!(client.ask(get(path)).status, 404, "{path}");
    }
}

#[test]
fn crl_92_no_cache_keeps_a_list_past_the_next_regular_one() {
    // NOW is 100 s after a multiple of 1,000.
    for (interval, kept) in [(1_000, 900), (110, 110 - NOW % 110)] {
        let files = Files::new(None, Bytes::new(), Duration::from_secs(3_600));
        let running = start_with(files.published_every(Duration::from_secs(interval)), Limits::default());
        let long = Published { next_update: Time::from_unix(NOW + 100_000), ..list(10, 0) };
        running.shelf.put_complete(long);
        let answer = Client::connect(running.address).ask(get("/crl/demo.crl"));
        assert!(
            answer.header("cache-control").starts_with(&format!("max-age={kept},")),
            "{}",
            answer.header("cache-control")
        );
    }
}

#[test]
fn http_03_addresses_of_4_kib_are_taken_and_longer_ones_are_told_so() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    let tail = |octets: usize| format!("/ocsp/{}", "M".repeat(octets - "/ocsp/".len()));
    assert_eq!(client.ask(get(&tail(4096))).status, 200);
    assert_eq!(client.ask(get(&tail(4097))).status, 414);
    assert_eq!(client.ask(get("/")).status, 200);
    // Beyond what a head may have, hyper refuses.
    assert_eq!(client.ask(get(&tail(100_000))).status, 431);
    client.is_closed();
}

#[test]
fn http_11_bodies_over_the_limit_are_refused_and_the_refusal_arrives() {
    let running = start(Limits::default());
    let large = vec![0xff; 1_000_000];
    let mut client = Client::connect(running.address);
    let answer = client.ask(post("/ocsp", &large[..65_536]));
    assert_eq!((answer.status, answer.body.as_slice()), (200, MALFORMED));
    let answer = client.ask(post("/ocsp", &large[..65_537]));
    assert_eq!((answer.status, answer.header("connection")), (413, "close"));
    // All of it is sent before the answer is read: closing at once would have reset it away.
    for _ in 0..10 {
        let mut client = Client::connect(running.address);
        assert_eq!(client.ask(post("/ocsp", &large)).status, 413);
        client.0.get_ref().shutdown(Shutdown::Write).unwrap();
        client.is_closed();
    }
    let mut client = Client::connect(running.address);
    client.send("POST /ocsp HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let answer = client.send([b"11170\r\n", &large[..70_000], b"\r\n0\r\n\r\n"].concat()).answer();
    assert_eq!(answer.status, 413);
    // Who asks first is refused before sending anything.
    let mut client = Client::connect(running.address);
    let ask = "POST /ocsp HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10000000000\r\n\r\n";
    assert_eq!(client.ask(ask).status, 413);
}

#[test]
fn sec_12_what_could_hide_a_second_request_is_refused_and_the_connection_closed() {
    let running = start(Limits::default());
    let hidden = "GET /ca/demo.cer HTTP/1.1\r\n\r\n";
    for head in [
        "POST /ocsp HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /ocsp HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "POST /ocsp HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n01234",
        "POST /ocsp HTTP/1.1\r\nContent-Length: 4, 4\r\n\r\n0123",
        "POST /ocsp HTTP/1.1\r\nContent-Length: +4\r\n\r\n0123",
        "POST /ocsp HTTP/1.1\r\nContent-Length : 4\r\n\r\n0123",
        "POST /ocsp HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST /ocsp HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /ocsp HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST /ocsp HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /ocsp HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /ocsp HTTP/1.1\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "POST /ocsp HTTP/1.1\r\n Content-Length: 4\r\n\r\n0123",
        "POST /ocsp HTTP/1.1\r\nX: a\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\n\n",
        "GET / HTTP/1.1\r\nX: a\rY: b\r\n\r\n",
        "GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 4\r\n\r\n0123",
        "HEAD / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "\u{16}\u{3}\u{1}\0",
    ] {
        let mut client = Client::connect(running.address);
        let answer = client.send(head).send(hidden).head();
        assert_eq!(answer.status, 400, "{head:?}");
        client.0.get_ref().shutdown(Shutdown::Write).expect(head);
        let rest = String::from_utf8(client.rest()).unwrap();
        assert!(!rest.contains("HTTP/1."), "{head:?} was answered twice: {rest}");
    }
    // The end of a chunked body is believed once, and nothing after it.
    let mut client = Client::connect(running.address);
    client.send(format!("POST /ocsp HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"));
    assert_eq!(client.answer().body, MALFORMED);
    client.0.get_ref().shutdown(Shutdown::Write).unwrap();
    client.is_closed();
}

#[test]
fn sec_13_a_head_has_to_be_complete_in_time_however_it_trickles() {
    let running = start(Limits { header_time: SHORT, idle_time: PATIENCE * 2, ..Limits::default() });
    let cut = || running.metrics.connections.cut.get(Cut::Header);
    Client::connect(running.address).is_closed();
    Client::connect(running.address).send("GET / HTTP/1.1\r\nHos").is_closed();
    assert_eq!(cut(), 2);
    // Trickling does not help, nor does having been in time before.
    let mut client = Client::connect(running.address);
    assert_eq!(client.ask(get("/")).status, 200);
    client.send("GET / HTTP/1.1\r\n");
    let mut writer = client.0.get_ref().try_clone().unwrap();
    thread::spawn(move || {
        while writer.write_all(b"X").is_ok() {
            thread::sleep(SHORT / 20);
        }
    });
    let began = Instant::now();
    client.is_closed();
    assert!(began.elapsed() >= SHORT / 2);
    wait_until(|| cut() == 3);
}

#[test]
fn sec_13_a_body_has_to_be_complete_in_time() {
    let running = start(Limits { body_time: SHORT, ..Limits::default() });
    let mut client = Client::connect(running.address);
    let answer = client.ask("POST /ocsp HTTP/1.1\r\nContent-Length: 10\r\n\r\n012");
    assert_eq!((answer.status, answer.header("connection")), (408, "close"));
    client.0.get_ref().shutdown(Shutdown::Write).unwrap();
    client.is_closed();
    assert_eq!(running.metrics.connections.cut.get(Cut::Body), 1);
}

#[test]
fn sec_13_an_idle_connection_is_closed() {
    let running = start(Limits { idle_time: SHORT, ..Limits::default() });
    let mut client = Client::connect(running.address);
    assert_eq!(client.ask(get("/")).status, 200);
    client.is_closed();
    assert_eq!(running.metrics.connections.cut.get(Cut::Header), 0);
    wait_until(|| running.metrics.connections.open.get() == 0);
}

#[test]
fn sec_13_a_reader_who_takes_nothing_is_cut_and_one_who_is_merely_slow_is_not() {
    let running = start(Limits { drain_time: SHORT, idle_time: SHORT, ..Limits::default() });
    running.shelf.put_complete(list(32 << 20, 0));
    let mut stalled = Client::connect(running.address);
    stalled.send(get("/crl/demo.crl"));
    wait_until(|| running.metrics.connections.cut.get(Cut::Write) == 1);
    stalled.head();
    assert!(stalled.rest().len() < 32 << 20);
    // It stops now and then for less than the limit, for more than the limit in all.
    let mut slow = Client::connect(running.address);
    slow.send(get("/crl/demo.crl"));
    slow.head();
    let mut left = 32 << 20;
    let mut piece = vec![0; 1 << 20];
    while left > 0 {
        thread::sleep(SHORT / 10);
        slow.0.read_exact(&mut piece).unwrap();
        left -= piece.len();
    }
    assert_eq!(running.metrics.connections.cut.get(Cut::Write), 1);
}

/// Another version of a list, and what tells whether it is still in memory.
fn tracked(octets: usize, ahead: u64) -> (Published, Weak<[u8]>) {
    let owner: Arc<[u8]> = vec![0x5a; octets].into();
    let held = Arc::downgrade(&owner);
    (Published { bytes: Bytes::from_owner(owner), ..list(1, ahead) }, held)
}

#[test]
fn readers_of_the_oldest_of_four_versions_are_cut_though_they_take_nothing_and_its_memory_is_let_go() {
    for range in ["", "Range: bytes=0-262143\r\n"] {
        // Nobody is cut for being slow.
        let running = start(Limits { drain_time: PATIENCE * 4, ..Limits::default() });
        let (mut readers, mut held) = (Vec::new(), Vec::new());
        for ahead in 0..4 {
            let (version, memory) = tracked(32 << 20, ahead);
            running.shelf.put_complete(version);
            let mut reader = Client::connect(running.address);
            if !range.is_empty() {
                // Else the kernel has room for all of it.
                socket2::SockRef::from(reader.0.get_ref()).set_recv_buffer_size(4096).unwrap();
            }
            // The head is here: this version is being read.
            reader.send(format!("GET /crl/demo.crl HTTP/1.1\r\n{range}\r\n")).head();
            readers.push(reader);
            held.push(memory);
        }
        wait_until(|| held[0].strong_count() == 0);
        assert!(held[1..].iter().all(|memory| memory.strong_count() > 0), "{range}");
        wait_until(|| running.metrics.connections.open.get() == 3);
        assert_eq!(running.metrics.connections.cut.get(Cut::Superseded), 1, "{range}");
        if range.is_empty() {
            let lengths: Vec<usize> = readers.iter_mut().map(|reader| reader.rest_of(32 << 20)).collect();
            assert!(lengths[0] < 32 << 20, "{lengths:?}");
            assert_eq!(lengths[1..], [32 << 20; 3]);
        }
    }
}

impl Client {
    /// Octets that come until `wanted` are there or the server closes.
    fn rest_of(&mut self, wanted: usize) -> usize {
        let mut got = 0;
        let mut piece = vec![0; 1 << 16];
        while got < wanted {
            match self.0.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(octets) => got += octets,
            }
        }
        got
    }
}

#[test]
fn connections_over_the_cap_are_closed_and_counted_and_places_come_free_again() {
    let limits =
        [Limits { connections: 2, ..Limits::default() }, Limits { connections_per_address: 2, ..Limits::default() }];
    for limits in limits {
        let running = start(limits);
        let mut first = Client::connect(running.address);
        let mut second = Client::connect(running.address);
        assert_eq!((first.ask(get("/")).status, second.ask(get("/")).status), (200, 200));
        Client::connect(running.address).is_closed();
        assert_eq!(running.metrics.connections.refused.get(), 1);
        assert_eq!(first.ask(get("/")).status, 200);
        drop(first);
        wait_until(|| running.metrics.connections.open.get() == 1);
        assert_eq!(Client::connect(running.address).ask(get("/")).status, 200);
    }
}

/// How many of `requests` requests with a nonce get an answer of their own, each sent for another client by the
/// word of this field; `first` stands before each of them.
fn answered_live(running: &Running, requests: u8, first: &str, field: impl Fn(u8) -> String) -> usize {
    let mut client = Client::connect(running.address);
    let body = asked(1, true);
    let mut answered = 0;
    for n in 0..requests {
        let head = format!("{first}POST /ocsp HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n", field(n), body.len());
        let answer = client.ask([head.as_bytes(), &body].concat());
        let is_own = matches!(parse(&answer.body).unwrap(), Parsed::Basic(basic) if basic.nonce.is_some());
        answered += usize::from(is_own);
    }
    answered
}

#[test]
fn sec_01_behind_a_trusted_proxy_each_client_has_its_own_share_and_nobody_takes_anothers() {
    let files = || Files::new(None, Bytes::from_static(CERTIFICATE), Duration::from_secs(30));
    let rate = LiveRate { issuer: 1_000_000, client: 1 };
    let trusted_proxies = vec![("127.0.0.1".parse().unwrap(), 32)];
    let trusting = Limits { trusted_proxies, ..Limits::default() };
    // With an empty line in front it is hyper's.
    for first in ["", "\r\n"] {
        let each = |n: u8| format!("X-Forwarded-For: 198.51.100.{n}\r\n");
        let running = start_signing(rate, 1 << 20, files(), trusting.clone());
        // Some may share a budget by the hash of their addresses.
        let answered = answered_live(&running, 40, first, each);
        assert!((35..=40).contains(&answered), "{answered}");
        let plain = running.plain();
        assert_eq!(plain, if first.is_empty() { 40 } else { 0 });
        // The client writes other addresses, before its own or in a line before; a proxy without a word is a client.
        for field in [
            |n: u8| format!("X-Forwarded-For: 198.51.100.{n}, 203.0.113.1\r\n"),
            |n| format!("X-Forwarded-For: 198.51.100.{n}\r\nX: y\r\nX-FORWARDED-FOR: 203.0.113.2\r\n"),
            |n| format!("X-Forwarded-For: 198.51.100.{n}, 203.0.113.3, 127.0.0.1\r\n"),
            |n| format!("X-Forwarded-For: {n}\r\n"),
        ] {
            let running = start_signing(rate, 1 << 20, files(), trusting.clone());
            let answered = answered_live(&running, 40, first, field);
            assert!((1..20).contains(&answered), "{answered}: {}", field(1));
        }
        let running = start_signing(rate, 1 << 20, files(), Limits::default());
        let answered = answered_live(&running, 40, first, each);
        assert!((1..20).contains(&answered), "{answered}");
    }
}

#[test]
fn a_trusted_proxy_may_open_as_many_connections_as_there_are() {
    let trusted_proxies = vec![("127.0.0.0".parse().unwrap(), 8)];
    let running = start(Limits { connections: 4, connections_per_address: 2, trusted_proxies, ..Limits::default() });
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(running.address)).collect();
    assert!(clients.iter_mut().all(|client| client.ask(get("/")).status == 200));
    Client::connect(running.address).is_closed();
}

#[test]
fn promise_10_a_panic_costs_one_answer() {
    let running = start(Limits::default());
    let mut client = Client::connect(running.address);
    let answer = client.ask(get("/ocsp/MA?panic"));
    assert_eq!((answer.status, answer.body.as_slice()), (200, INTERNAL_ERROR));
    assert_eq!(client.ask(get("/?panic")).status, 500);
    let answer = client.ask(post("/ocsp", b"panic"));
    assert_eq!((answer.status, answer.body.as_slice()), (200, INTERNAL_ERROR));
    assert_eq!(client.ask(get("/")).status, 200);
    assert_eq!(running.metrics.connections.panics.get(), 3);
    assert!(running.health.live() && running.health.ready());
}

#[test]
fn stopping_closes_idle_connections_and_finishes_answers() {
    let running = start(Limits::default());
    running.shelf.put_complete(list(32 << 20, 0));
    let mut idle = Client::connect(running.address);
    assert_eq!(idle.ask(get("/")).status, 200);
    let mut reading = Client::connect(running.address);
    reading.send(get("/crl/demo.crl")).head();
    running.stop.send(true).unwrap();
    idle.is_closed();
    wait_until(|| TcpStream::connect(running.address).is_err());
    assert_eq!(reading.rest_of(32 << 20), 32 << 20);
    assert_eq!(block_on(running.server.stopped()), 0);
}

#[test]
fn stopping_ends_at_the_deadline_whoever_is_still_there() {
    let running = start(Limits { stop_time: SHORT, ..Limits::default() });
    running.shelf.put_complete(list(32 << 20, 0));
    let mut stalled = Client::connect(running.address);
    stalled.send(get("/crl/demo.crl")).head();
    running.stop.send(true).unwrap();
    assert_eq!(block_on(running.server.stopped()), 1);
    assert!(stalled.rest_of(32 << 20) < 32 << 20);
    assert_eq!(running.metrics.connections.cut.get(Cut::Stop), 1);
    assert_eq!(running.metrics.connections.open.get(), 0);
}

#[test]
fn a_port_in_use_is_noticed_and_named() {
    let running = start(Limits::default());
    for count in [1, 2] {
        let BindError { address, source } = bind(running.address, count).unwrap_err();
        assert_eq!((address, source.kind()), (running.address, std::io::ErrorKind::AddrInUse));
    }
    let text = bind(running.address, 2).unwrap_err().to_string();
    assert!(text.contains(&running.address.to_string()) && text.contains("another jarchy"), "{text}");
    // Its port is free as soon as it has stopped, though connections linger.
    let mut client = Client::connect(running.address);
    client.ask(get("/"));
    running.stop.send(true).unwrap();
    block_on(running.server.stopped());
    assert!(bind(running.address, 2).is_ok());
}

#[test]
fn the_kernel_shares_connections_out_between_all_sockets() {
    let sockets = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
    let address = sockets[0].local_addr().unwrap();
    assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
    let clients: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut accepted = 0;
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
        let here = std::iter::from_fn(|| socket.accept().ok()).count();
        assert!(here > 0, "a socket was left out");
        accepted += here;
    }
    assert_eq!(accepted, clients.len());
}

/// All that is answered to `bytes` on a connection of their own, with the moments blotted out.
fn said(address: SocketAddr, bytes: &[u8]) -> String {
    let mut client = Client::connect(address);
    // What cannot be sent any more, the server did not want.
    _ = client.0.get_mut().write_all(bytes);
    _ = client.0.get_mut().shutdown(Shutdown::Write);
    let text = client.rest().iter().map(|octet| char::from(*octet)).collect::<String>();
    let blot = |line: &str| if line.starts_with("date: ") { "date".to_owned() } else { line.to_owned() };
    text.split("\r\n").map(blot).collect::<Vec<_>>().join("\r\n")
}

/// Asserts that what is answered without hyper is what hyper answers. An empty line in front, which means
/// nothing, makes a request one for hyper.
fn same_as_hyper(address: SocketAddr, bytes: &[u8]) {
    let (ours, hypers) = (said(address, bytes), said(address, &[b"\r\n", bytes].concat()));
    assert_eq!(ours, hypers, "{}", String::from_utf8_lossy(bytes));
}

/// A request for a serial of one octet, perhaps with a nonce.
fn asked(serial: u8, has_nonce: bool) -> Vec<u8> {
    let certificate = Certificate::from_der(&CA.certificate).unwrap();
    let issuer = Issuer { name: "demo".parse().unwrap(), certificate };
    let cert_id = encode_cert_id(&issuer.hashes(HashAlgorithm::Sha256), &[serial]);
    encode(&cert_id, has_nonce.then_some(&[7; 16][..]))
}

/// Requests of every kind, those that are answered without hyper first.
fn kinds() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (der, text) = (request(), STANDARD.encode(request()));
    let escaped = text.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D");
    let post = |path: &str, more: &str, body: &[u8]| {
        let length = body.len();
        [format!("POST {path} HTTP/1.1\r\n{more}Content-Length: {length}\r\n\r\n").as_bytes(), body].concat()
    };
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\n{more}\r\n").into_bytes();
    let plain = vec![
        post("/ocsp", "", &der),
        post("/ocsp/", "Host: a\r\nContent-Type: text/plain\r\nUser-Agent: x/1 (y; z)\r\n", &der),
        post("/ocsp/demo", "Connection: keep-alive\r\nX-Forwarded-For: 192.0.2.1\r\n", &der),
        get(&format!("/ocsp/{text}"), "Host: a:80\r\n"),
        get(&format!("/ocsp//{escaped}"), "HOST:a\r\nAccept: */*\r\nAccept-Encoding: gzip, br\r\nX-Empty:\r\n"),
        get(&format!("/ocsp/demo/{}", text.trim_end_matches('=')), ""),
        get(&format!("/ocsp/{escaped}"), "Range: bytes=0-9\r\nTE: trailers\r\nCache-Control: no-cache\r\n"),
        post("/ocsp", "Connection: close\r\n", &der),
        get(&format!("/ocsp/{text}"), "connection:CLOSE\r\n"),
        // What no answer is kept of.
        post("/ocsp", "", &asked(1, true)),
        post("/ocsp/demo", "Connection: close\r\n", &asked(1, true)),
        get(&format!("/ocsp/{}", STANDARD.encode(asked(1, true)).replace('+', "%2B")), "Host: a\r\n"),
        post("/ocsp", "", &asked(9, false)),
        post("/ocsp", "", b""),
        post("/ocsp", "", b"0"),
        post("/ocsp/bare", "", &der),
        get("/ocsp/MA==", ""),
        get("/ocsp/MA==", "Connection: close\r\n"),
    ];
    let path = format!("/ocsp/{escaped}");
    let others = vec![
        get(&format!("{path}?x"), ""),
        post("/ocsp/x", "", &der),
        post("/ocspx", "", &der),
        post("/ocsp?a", "", &der),
        post("/ocsp", "Transfer-Encoding: chunked\r\n", &der),
        post("/ocsp", "Content-Length: 1\r\n", &der),
        post("/ocsp", "Expect: 100-continue\r\n", &der),
        post("/ocsp", "Connection: close, x\r\n", &der),
        post("/ocsp", "Connection: upgrade\r\nUpgrade: h2c\r\n", &der),
        post("/ocsp", &"X: y\r\n".repeat(70), &der),
        post("/ocsp", &"X: y\r\n".repeat(101), &der),
        post("/ocsp", &format!("X: {}\r\n", "y".repeat(5_000)), &der),
        b"POST /ocsp HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n0\r\n0\r\n\r\n".to_vec(),
        get(&path, "If-None-Match: *\r\n"),
        get(&path, "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
        get(&path, "Content-Length: 0\r\n"),
        get(&path, "Content-Length: 1\r\n"),
        get(&path, " folded: x\r\n"),
        get(&path, "X: \u{e9}\t\r\n"),
        get(&path, "X : y\r\n"),
        get(&path, ": y\r\n"),
        get(&format!("/ocsp/{}", "M".repeat(4_200)), ""),
        get(&format!("/ocsp/{}", text.replace('+', " ")), ""),
        get(&format!("http://a{path}"), ""),
        get("/ocsp", ""),
        get("/crl/demo.crl", ""),
        get("/", ""),
        get("/nothing", "Connection: close\r\n"),
        format!("GET {path} HTTP/1.0\r\n\r\n").into_bytes(),
        format!("HEAD {path} HTTP/1.1\r\n\r\n").into_bytes(),
        format!("GET {path} HTTP/1.1\n\n").into_bytes(),
        format!("get {path} HTTP/1.1\r\n\r\n").into_bytes(),
        format!("PUT {path} HTTP/1.1\r\n\r\n").into_bytes(),
    ];
    (plain, others)
}

#[test]
fn what_is_answered_without_hyper_is_what_hyper_answers() {
    let kept = start(Limits::default());
    let files = Files::new(None, Bytes::from_static(CERTIFICATE), Duration::from_secs(30));
    // Every answer is signed for whoever asks.
    let cold = start_keeping(0, files, Limits::default());
    let (plain, others) = kinds();
    for running in [&kept, &cold] {
        running.shelf.put_complete(list(600_000, 0));
        for request in &plain {
            let before = running.plain();
            same_as_hyper(running.address, request);
            assert_eq!(running.plain(), before + 1, "{}", String::from_utf8_lossy(request));
        }
        let before = running.plain();
        for request in &others {
            same_as_hyper(running.address, request);
        }
        assert_eq!(running.plain(), before);
        assert!(running.metrics.signatures.get(Purpose::Ocsp) > 0);
    }
    // One after another on one connection, and every one of them cut off or spoilt somewhere.
    let long = std::env::var_os("JARCHY_LONG").is_some();
    let (seed, rounds) = (20_261_128_u64, if long { 50_000 } else { 600 });
    let mut state = seed;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below.max(1)
    };
    for _ in 0..rounds {
        let mut bytes = Vec::new();
        for _ in 0..=random(3) {
            let from = if random(3) == 0 { &others } else { &plain };
            bytes.extend_from_slice(&from[random(from.len())]);
        }
        for _ in 0..random(3) {
            let at = random(bytes.len());
            match random(5) {
                0 => bytes.truncate(at),
                1 => _ = bytes.remove(at),
                2 => bytes.insert(at, b"\r\n :\0,a%\xff"[random(9)]),
                3 => bytes[at] = b"\r\n :\0,a%\xff"[random(9)],
                _ => bytes[at] ^= 1 << random(8),
            }
            if bytes.is_empty() {
                break;
            }
        }
        same_as_hyper(if random(2) == 0 { &kept } else { &cold }.address, &bytes);
    }
}

#[test]
fn no_answer_overtakes_another() {
    let running = start(Limits::default());
    running.shelf.put_complete(list(5_000_000, 0));
    let (plain, others) = kinds();
    said(running.address, &plain[0]);
    let mut client = Client::connect(running.address);
    for _ in 0..3 {
        // Nobody takes the list while the next requests come, some with hyper's.
        assert_eq!(client.send("GET /crl/demo.crl HTTP/1.1\r\n\r\n").head().status, 200);
        client.send(&plain[0]).send(&plain[3]).send(&others[0]).send(&plain[1]);
        let mut body = vec![0; 5_000_000];
        client.0.read_exact(&mut body).unwrap();
        assert!(body.iter().all(|octet| *octet == 0x5a));
        for malformed in [false, false, true, false] {
            assert_eq!(client.answer().body == MALFORMED, malformed);
        }
    }
    // The same between two answers that are not made in pieces.
    let mut client = Client::connect(running.address);
    for _ in 0..50 {
        client.send([&others[0][..], &plain[3], &others[0], &plain[0]].concat());
        for malformed in [true, false, true, false] {
            assert_eq!(client.answer().body == MALFORMED, malformed);
        }
    }
}

#[test]
fn while_an_answer_is_made_none_overtakes_it_and_no_time_runs_out() {
    let running = start(Limits { idle_time: SHORT, header_time: SHORT, drain_time: SHORT, ..Limits::default() });
    running.revoke_at(NOW + 1);
    let (plain, others) = kinds();
    let mut alone = Client::connect(running.address);
    alone.send(&plain[0]);
    let mut client = Client::connect(running.address);
    client.send([&plain[9][..], &others[0], &plain[3]].concat()).send(&plain[13]);
    wait_until(|| running.posts() == 2);
    // The time-outs of one who waits for nothing pass meanwhile.
    Client::connect(running.address).is_closed();
    let mut idle = Client::connect(running.address);
    assert_eq!(idle.ask(get("/")).status, 200);
    idle.is_closed();
    running.clock.set(Time::from_unix(NOW + 1));
    assert!(alone.answer().body.len() > 100);
    for malformed in [false, true, false, true] {
        assert_eq!(client.answer().body == MALFORMED, malformed);
    }
}

#[test]
fn stopping_finishes_answers_that_are_being_made() {
    let running = start(Limits::default());
    running.revoke_at(NOW + 1);
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(running.address)).collect();
    clients.iter_mut().for_each(|client| _ = client.send(post("/ocsp", &request())));
    wait_until(|| running.posts() == 4);
    running.stop.send(true).unwrap();
    wait_until(|| TcpStream::connect(running.address).is_err());
    running.clock.set(Time::from_unix(NOW + 1));
    for client in &mut clients {
        assert!(client.answer().body.len() > 100);
        client.is_closed();
    }
    assert_eq!(block_on(running.server.stopped()), 0);
}

#[test]
fn who_goes_away_while_an_answer_is_made_leaves_nothing_behind() {
    let running = start(Limits { answer_time: SHORT, ..Limits::default() });
    running.revoke_at(NOW + 1);
    let mut client = Client::connect(running.address);
    client.send(post("/ocsp", &request()));
    wait_until(|| running.posts() == 1);
    drop(client);
    wait_until(|| running.metrics.connections.open.get() == 0);
    assert_eq!(running.metrics.connections.cut.get(Cut::Write), 0);
}
