//! A CA's CRL of a million entries as the source: how long until every entry is in the index, and how much memory
//! that takes at its height, beside `openssl crl -noout`, which only parses. Each in a process of its own, so that
//! the height is its own. With `--test` a small list, to see that it works.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use jarchy::crl::encode::{Head, lay, seal};
use jarchy::crl::entries::Entries;
use jarchy::index::{Index, Record};
use jarchy::pki::{Certificate, Clock, Issuer, Reason, Revocation, Serial, SystemClock, Time};
use jarchy::sign::Signer;
use jarchy::source::Source;
use jarchy::source::crl::{CrlSource, Place};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use ring::rand::{SecureRandom, SystemRandom};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, folder] = arguments.as_slice()
        && word == "load"
    {
        return load(Path::new(folder));
    }
    let size = if arguments.iter().any(|argument| argument == "--test") { 1_000 } else { 1_000_000 };
    let dir = tempfile::tempdir().unwrap();
    let octets = make(dir.path(), size);
    println!("a CRL of {size} entries, {:.1} MB", mega(octets));
    let (list, folder) = (dir.path().join("ca.crl"), dir.path().to_str().unwrap().to_owned());
    let jarchy = || Command::new(std::env::current_exe().unwrap()).args(["load", &folder]).spawn().unwrap();
    let openssl = || {
        let mut command = Command::new("openssl");
        command.args(["crl", "-inform", "DER", "-noout", "-in", list.to_str().unwrap()]).spawn().unwrap()
    };
    for round in 1..=3 {
        for (name, start) in [("jarchy", &jarchy as &dyn Fn() -> Child), ("openssl crl -noout", &openssl)] {
            let (time, height) = watched(start);
            println!("round {round}, {name}: {:.2} s, {:.0} MB at its height", time.as_secs_f64(), mega(height));
        }
    }
}

fn mega(octets: usize) -> f64 {
    octets as f64 / 1e6
}

/// How long a process takes and how much memory it has at its height, as far as it is looked at every 2 ms.
fn watched(start: &dyn Fn() -> Child) -> (Duration, usize) {
    let began = Instant::now();
    let mut child = start();
    let (status, mut height) = (format!("/proc/{}/status", child.id()), 0);
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilo = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
        height = height.max(kilo.unwrap_or(0) * 1_024);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    (began.elapsed(), height)
}

/// A list of `size` revocations with serials of 16 octets and a reason, and the CA's certificate.
fn make(dir: &Path, size: usize) -> usize {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(key.serialize_pem().as_bytes()).unwrap();
    let signer = Signer::from_file(file.path(), &certificate).unwrap();
    let mut octets = vec![0; size * 16];
    SystemRandom::new().fill(&mut octets).unwrap();
    let mut serials: Vec<Serial> =
        octets.chunks_exact(16).map(|chunk| Serial::from_magnitude(chunk).unwrap()).collect();
    serials.sort_unstable();
    let now = SystemClock.now();
    let revocation = Revocation { at: now, reason: Reason::Superseded, invalidity_date: None };
    let entries = Entries::from_sorted(serials.iter().map(|serial| (serial, &revocation, Time::MAX)));
    let head = Head {
        algorithm: signer.algorithm(),
        issuer: certificate.subject(),
        authority_key: &[7; 20],
        this_update: now,
        next_update: now + Duration::from_secs(86_400),
        number: 1,
        ..Head::default()
    };
    let mut buffer = Vec::new();
    let laid = lay(&mut buffer, &head, entries.runs());
    let signature = signer.sign(&buffer[laid.tbs]).unwrap();
    let list = seal(&mut buffer, &head, &signature);
    std::fs::write(dir.join("ca.crl"), &buffer[list.clone()]).unwrap();
    std::fs::write(dir.join("ca.cer"), certificate.der()).unwrap();
    list.len()
}

/// Reads the list into an index, as the feed does.
fn load(dir: &Path) {
    let certificate = Certificate::from_file_bytes(&std::fs::read(dir.join("ca.cer")).unwrap()).unwrap();
    let issuer = Issuer { name: "bench".parse().unwrap(), certificate };
    let mut source = CrlSource::new(&issuer, Place::File(dir.join("ca.crl")), None, Duration::from_secs(1));
    let index = Index::new();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        source.open().await.unwrap();
        let mut after = None;
        loop {
            let page = source.page(after.as_ref(), 10_000).await.unwrap();
            let records = page.rows.into_iter().map(|row| {
                let (not_before, not_after, status) = (row.not_before, row.not_after, row.status);
                (row.serial, Record { not_before, not_after, status, since: Time::default(), sha256: None })
            });
            index.stage(records.collect());
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        index.settle();
    });
    assert!(index.issued() > 0);
}
