//! Every status × reason × hash × parameters × method × kind of signer × nonce, from one server.
//!
//! Requests are put together here octet by octet; answers are read with the `x509-ocsp` crate and, one for each
//! signer and status, with `openssl ocsp`. Nothing here reads or writes OCSP with Jarchy's own code.

use crate::harness::{DEADLINE, Demo, Server, copy_test_pki, openssl, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use der_07::{Decode, Encode};
use jarchy::pki::hash::sha256;
use jarchy::pki::{Certificate, Clock, HashAlgorithm, Reason, Revocation, Serial, Status, SystemClock, Time};
use jarchy::registry::{Audit, NewCertificate, Registry};
use jarchy::sign::verify;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use x509_ocsp::{BasicOcspResponse, OcspRequest, OcspResponse, OcspResponseStatus, ResponderId};

const KINDS: [&str; 4] = ["p256", "p384", "rsa2048", "ed25519"];
const INVALID_SINCE: Time = Time::from_unix(1_780_000_000);
const REVOKED_AT: Time = Time::from_unix(1_790_000_000);
/// OCSP-80.
const EXTENDED_REVOKE: &[u8] = &[0x30, 0x0f, 6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 9, 4, 2, 5, 0];
const UNAUTHORIZED: &[u8] = &[0x30, 3, 0x0a, 1, 6];

/// What is asked about, and what must be said of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Subject {
    Good,
    Revoked(Reason),
    NotIssued,
}

/// One CA of the server.
struct Ca {
    name: String,
    file: PathBuf,
    certificate: Certificate,
    /// Who signs; the CA itself where there is no delegate.
    signer: Certificate,
    delegated: bool,
    not_issued: NotIssued,
}

/// What a CA says of what it did not issue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum NotIssued {
    Unauthorized,
    Unknown,
    Revoked,
}

fn subjects() -> Vec<Subject> {
    let revoked = Reason::ALL.into_iter().map(Subject::Revoked);
    [Subject::Good].into_iter().chain(revoked).chain([Subject::NotIssued]).collect()
}

/// Lengths that differ, up to the longest, and a sign octet.
fn serial(at: usize) -> Vec<u8> {
    let first = u8::try_from(at).unwrap() + 1;
    match at % 4 {
        0 => vec![first; 16],
        1 => [vec![first], vec![0xee; 19]].concat(),
        2 => vec![0, 0x80 | first, 7],
        _ => vec![first],
    }
}

/// An element whose content is less than 64 KiB.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = u16::try_from(content.len()).unwrap();
    let [high, low] = len.to_be_bytes();
    let header = match len {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [header, content].concat()
}

fn cert_id(ca: &Certificate, hash: HashAlgorithm, null: bool, serial: &[u8]) -> Vec<u8> {
    let algorithm = element(0x30, &[hash.oid(), if null { &[5, 0] } else { &[] }]);
    let digest = |bytes: &[u8]| element(4, &[hash.digest(bytes).as_ref()]);
    element(0x30, &[&algorithm, &digest(ca.subject()), &digest(ca.key_bits()), &element(2, &[serial])])
}

/// The extension that carries `nonce`, whole.
fn nonce_extension(nonce: &[u8]) -> Vec<u8> {
    element(0x30, &[&[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2], &element(4, &[&element(4, &[nonce])])])
}

fn request(cert_id: &[u8], nonce: Option<&[u8]>) -> Vec<u8> {
    let list = element(0x30, &[&element(0x30, &[cert_id])]);
    let extensions = nonce.map(|nonce| element(0xa2, &[&element(0x30, &[&nonce_extension(nonce)])]));
    element(0x30, &[&element(0x30, &[&list, &extensions.unwrap_or_default()])])
}

/// A client that keeps its connection.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn send(&mut self, get: bool, request: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        if get {
            let path = STANDARD.encode(request).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            write!(message, "GET /ocsp/{path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        } else {
            let kind = "Content-Type: application/ocsp-request";
            write!(message, "POST /ocsp HTTP/1.1\r\nHost: x\r\n{kind}\r\nContent-Length: {}\r\n\r\n", request.len())
                .unwrap();
            message.extend_from_slice(request);
        }
        self.stream.get_mut().write_all(&message).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.stream.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let head = head.to_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(head.contains("\r\ncontent-type: application/ocsp-response\r\n"), "{head}");
        let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut body = vec![0; len.trim().parse().unwrap()];
        self.stream.read_exact(&mut body).unwrap();
        body
    }
}

fn read(path: &Path) -> Certificate {
    Certificate::from_file_bytes(&fs::read(path).unwrap()).unwrap()
}

/// Each kind of key twice: a CA with a delegate, and one of the same key and another name that signs by itself.
fn cas(dir: &Path) -> Vec<Ca> {
    let both = KINDS.into_iter().flat_map(|kind| [(kind, true), (kind, false)]);
    both.map(|(kind, delegated)| {
        let file = if delegated { dir.join(format!("ca-{kind}.pem")) } else { dir.join(format!("self-{kind}.pem")) };
        if !delegated {
            let (key, subject) = (dir.join(format!("ca-{kind}.key")), format!("/CN=Signs itself {kind}"));
            let usage = "keyUsage=critical,keyCertSign,cRLSign,digitalSignature";
            let make =
                ["req", "-x509", "-new", "-key", text(&key), "-subj", &subject, "-addext", usage, "-days", "999"];
            openssl(&[&make[..], &["-out", text(&file)]].concat()).ok("req -x509");
        }
        let certificate = read(&file);
        let signer = if delegated { read(&dir.join(format!("ocsp-{kind}.pem"))) } else { certificate.clone() };
        let name = format!("{kind}_{}", if delegated { "delegate" } else { "itself" });
        let not_issued = match (delegated, kind) {
            (false, _) => NotIssued::Unauthorized,
            (true, "p256" | "rsa2048") => NotIssued::Unknown,
            (true, _) => NotIssued::Revoked,
        };
        Ca { name, file, certificate, signer, delegated, not_issued }
    })
    .collect()
}

fn config(cas: &[Ca]) -> String {
    let mut config = "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"off\"\n".to_owned();
    for Ca { name, file, delegated, not_issued, .. } in cas {
        let kind = name.split('_').next().unwrap();
        write!(config, "[[issuer]]\nname = \"{name}\"\ncertificate = {:?}\n[issuer.ocsp]\n", text(file)).unwrap();
        config += &if *delegated {
            format!("certificate = \"ocsp-{kind}.pem\"\nkey = \"ocsp-{kind}.key\"\n")
        } else {
            format!("key = \"ca-{kind}.key\"\ncert_hash = true\n")
        };
        writeln!(config, "not_issued = \"{}\"", format!("{not_issued:?}").to_lowercase()).unwrap();
        // All that is asked here comes from one address, faster than any client.
        writeln!(config, "live_rate = 1000000\nlive_rate_per_client = 1000000").unwrap();
    }
    config
}

async fn fill(database: &Path, cas: &[Ca]) {
    let registry = Registry::create(database).await.unwrap();
    let now = SystemClock.now();
    let audit = Audit { actor: "test".to_owned(), received_at: now };
    for ca in cas {
        let issuer: jarchy::pki::IssuerName = ca.name.parse().unwrap();
        registry.add_issuer(&issuer, &ca.certificate).await.unwrap();
        let issued = subjects().into_iter().enumerate().filter(|(_, subject)| *subject != Subject::NotIssued);
        let rows: Vec<_> = issued
            .map(|(at, subject)| NewCertificate {
                issuer: issuer.clone(),
                serial: Serial::from_content(&serial(at)).unwrap(),
                not_before: now - Duration::from_secs(40 * 86_400),
                not_after: now + Duration::from_secs(40 * 86_400),
                sha256: Some(sha256(&serial(at))),
                holder: None,
                medium: None,
                renews: None,
                shard: None,
                ca: None,
                status: match subject {
                    Subject::Revoked(reason) => {
                        let invalidity_date = (reason == Reason::KeyCompromise).then_some(INVALID_SINCE);
                        Status::Revoked(Revocation { at: REVOKED_AT, reason, invalidity_date })
                    }
                    _ => Status::Good,
                },
            })
            .collect();
        for added in registry.add(&rows, &audit).await.unwrap() {
            added.unwrap();
        }
    }
    registry.close().await;
}

/// Holds an answer against what must be in it.
fn assert_answer(ca: &Ca, (subject, serial): (Subject, &[u8]), asked: &[u8], nonce: Option<&[u8]>, answer: &[u8]) {
    let context = || format!("{} {subject:?}, asked {}: {}", ca.name, STANDARD.encode(asked), STANDARD.encode(answer));
    if subject == Subject::NotIssued && ca.not_issued == NotIssued::Unauthorized {
        assert_eq!(answer, UNAUTHORIZED, "{}", context());
        return;
    }
    let response = OcspResponse::from_der(answer).unwrap_or_else(|error| panic!("{error}: {}", context()));
    assert_eq!(response.to_der().unwrap(), answer, "not as DER has it: {}", context());
    assert_eq!(response.response_status, OcspResponseStatus::Successful, "{}", context());
    let bytes = response.response_bytes.unwrap();
    assert_eq!(bytes.response_type.to_string(), "1.3.6.1.5.5.7.48.1.1");
    let basic = BasicOcspResponse::from_der(bytes.response.as_bytes()).unwrap();
    assert_eq!(basic.to_der().unwrap(), bytes.response.as_bytes(), "not as DER has it: {}", context());

    // Who signed: OCSP-11, OCSP-52, OCSP-57.
    let data = basic.tbs_response_data;
    let ResponderId::ByKey(key_hash) = &data.responder_id else { panic!("by name: {}", context()) };
    let expected = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, ca.signer.key_bits());
    assert_eq!(key_hash.as_bytes(), expected.as_ref());
    let certs: Vec<_> = basic.certs.unwrap_or_default().iter().map(|cert| cert.to_der().unwrap()).collect();
    let expected = if ca.delegated { vec![ca.signer.der().to_vec()] } else { Vec::new() };
    assert_eq!(certs, expected, "{}", context());
    let (algorithm, signed) = (basic.signature_algorithm.to_der().unwrap(), data.to_der().unwrap());
    let made = basic.signature.as_bytes().unwrap();
    verify::signature(ca.signer.spki(), &algorithm, &signed, made)
        .unwrap_or_else(|error| panic!("{error}: {}", context()));

    // What it says: OCSP-02, OCSP-05, OCSP-41, OCSP-47.
    let [single] = &data.responses[..] else { panic!("not one answer: {}", context()) };
    assert_eq!(single.cert_id.to_der().unwrap(), asked, "{}", context());
    let expected = match subject {
        Subject::Good => b"\x80\x00".to_vec(),
        Subject::Revoked(Reason::Unspecified) => b"\xa1\x11\x18\x0f20260921141320Z".to_vec(),
        Subject::Revoked(reason) => {
            [&b"\xa1\x16\x18\x0f20260921141320Z\xa0\x03\x0a\x01"[..], &[reason.code()]].concat()
        }
        Subject::NotIssued if ca.not_issued == NotIssued::Unknown => b"\x82\x00".to_vec(),
        Subject::NotIssued => b"\xa1\x16\x18\x0f19700101000000Z\xa0\x03\x0a\x01\x06".to_vec(),
    };
    assert_eq!(single.cert_status.to_der().unwrap(), expected, "{}", context());
    let now = SystemClock.now().since(Time::default());
    let (from, until) = (single.this_update.0.to_unix_duration(), single.next_update.unwrap().0.to_unix_duration());
    let produced = data.produced_at.0.to_unix_duration();
    assert!(from <= produced && produced <= now && now < until, "{}", context());

    // Byte for byte what OCSP-60 and OCSP-80 show, and nothing else (OCSP-64, OCSP-71, OCSP-81).
    let said: Vec<_> = data.response_extensions.iter().flatten().map(|extension| extension.to_der().unwrap()).collect();
    let follows = (ca.not_issued == NotIssued::Revoked).then(|| EXTENDED_REVOKE.to_vec());
    let expected: Vec<_> = follows.into_iter().chain(nonce.map(nonce_extension)).collect();
    assert_eq!(said, expected, "{}", context());
    assert_eq!(data.response_extensions.is_some(), !expected.is_empty(), "an empty list: {}", context());
    // The same of OCSP-74, OCSP-76 and CH-01; of what was not issued nothing more is said (OCSP-35).
    let said: Vec<_> = single.single_extensions.iter().flatten().map(|extension| extension.to_der().unwrap()).collect();
    let expected = if subject == Subject::NotIssued { Vec::new() } else { single_extensions(ca, subject, serial) };
    assert_eq!(said, expected, "{}", context());
    assert_eq!(single.single_extensions.is_some(), !expected.is_empty(), "an empty list: {}", context());
}

/// archiveCutoff is the CA's notBefore, because status is kept for ever; the invalidity date comes with one
/// reason, certHash from the CAs that sign by themselves.
fn single_extensions(ca: &Ca, subject: Subject, serial: &[u8]) -> Vec<Vec<u8>> {
    let time = |head: &[u8], time: Time| [head, &[4, 0x11, 0x18, 0x0f], &time.generalized()].concat();
    let cutoff = [0x30, 0x1e, 6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 6];
    let mut expected = vec![time(&cutoff, ca.certificate.not_before())];
    if subject == Subject::Revoked(Reason::KeyCompromise) {
        expected.push(time(&[0x30, 0x18, 6, 3, 0x55, 0x1d, 0x18], INVALID_SINCE));
    }
    if !ca.delegated {
        let head = [0x30, 0x3a, 6, 5, 0x2b, 0x24, 8, 3, 0x0d, 4, 0x31, 0x30, 0x2f, 0x30, 0x0b];
        expected.push([&head[..], HashAlgorithm::Sha256.oid(), &[4, 32], &sha256(serial)].concat());
    }
    expected
}

/// The same as OpenSSL sees it: signature, chain, nonce, status and reason.
fn assert_openssl(dir: &Path, ca: &Ca, subject: Subject, request: &[u8], answer: &[u8]) {
    let (asked, answered) = (dir.join("request.der"), dir.join("answer.der"));
    fs::write(&asked, request).unwrap();
    fs::write(&answered, answer).unwrap();
    let (issuer, files) = (text(&ca.file), ["-reqin", text(&asked), "-respin", text(&answered)]);
    let said = openssl(&[&["ocsp", "-issuer", issuer, "-CAfile", issuer, "-resp_text"][..], &files].concat()).all();
    // It has no name for the numbers 9 and 10.
    let reason_said = |reason: Reason| {
        said.lines()
            .any(|line| line.contains("Revocation Reason: ") && line.ends_with(&format!("(0x{:x})", reason.code())))
    };
    let right = match subject {
        Subject::NotIssued if ca.not_issued == NotIssued::Unauthorized => {
            said.contains("Responder Error: unauthorized (6)")
        }
        _ if !said.contains("Response verify OK") || said.contains("WARNING") => false,
        Subject::NotIssued if ca.not_issued == NotIssued::Unknown => said.contains("Cert Status: unknown"),
        Subject::NotIssued => said.contains("Cert Status: revoked") && said.contains("Jan  1 00:00:00 1970 GMT"),
        Subject::Good => said.contains("Cert Status: good"),
        Subject::Revoked(Reason::Unspecified) => {
            said.contains("Cert Status: revoked") && !said.contains("Revocation Reason")
        }
        Subject::Revoked(reason) => said.contains("Cert Status: revoked") && reason_said(reason),
    };
    assert!(right, "{} {subject:?}: {said}", ca.name);
}

#[test]
fn every_status_under_every_hash_method_signer_and_nonce() {
    let dir = tempfile::tempdir().unwrap();
    copy_test_pki(dir.path());
    let cas = cas(dir.path());
    let file = dir.path().join("jarchy.toml");
    fs::write(&file, config(&cas)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(fill(&dir.path().join("issuance.db"), &cas));
    let server = Server::start(&["serve", "--config", text(&file)], &dir.path().join("log"));
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut client = Client { stream: BufReader::new(stream) };

    let nonces: [Option<&[u8]>; 3] = [None, Some(&[0x5a; 16]), Some(&[0xa5; 32])];
    let ways = [false, true].into_iter().flat_map(|get| nonces.map(|nonce| (get, nonce)));
    let ways: Vec<_> = ways.collect();
    // A quarter of the rows, spread evenly, unless there is time: each signer and status meets every hash and way.
    let every = std::env::var_os("JARCHY_LONG").is_some();
    let mut rows = 0;
    for (turn, ca) in cas.iter().enumerate() {
        for (at, subject) in subjects().into_iter().enumerate() {
            let hashes = HashAlgorithm::ALL.into_iter().flat_map(|hash| [(hash, true), (hash, false)]);
            for (number, (hash, null)) in hashes.enumerate() {
                let asked = cert_id(&ca.certificate, hash, null, &serial(at));
                for (way, (get, nonce)) in ways.iter().enumerate() {
                    let with_openssl = number == (at + turn) % 8 && way == (at + turn) % ways.len();
                    if !(every || with_openssl || (number + way + at + turn).is_multiple_of(4)) {
                        continue;
                    }
                    let bytes = request(&asked, *nonce);
                    assert_eq!(OcspRequest::from_der(&bytes).unwrap().to_der().unwrap(), bytes);
                    let answer = client.send(*get, &bytes);
                    assert_answer(ca, (subject, &serial(at)), &asked, *nonce, &answer);
                    // OpenSSL knows the SHA family, the first eight; each status meets another hash and way.
                    if with_openssl {
                        assert_openssl(dir.path(), ca, subject, &bytes, &answer);
                    }
                    rows += 1;
                }
            }
        }
    }
    println!("{rows} rows");
    server.stop();
}

/// In the demo and in the test data, byte for byte, not critical.
#[test]
fn ocsp_54_delegates_carry_nocheck_so_that_nobody_asks_about_them() {
    let (_work, demo) = Demo::copied();
    let nocheck = [0x30, 0x0f, 6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 5, 4, 2, 5, 0];
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pki");
    for file in [demo.join("ocsp.pem"), tests.join("ocsp-p256.pem"), tests.join("ocsp-rsa2048.pem")] {
        let delegate = read(&file);
        assert!(delegate.der().windows(nocheck.len()).any(|octets| octets == nocheck), "{}", file.display());
    }
}
