//! What the parts of an OCSP answer cost: reading the request, making the answer with and without a signature.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use criterion::{Criterion, criterion_group, criterion_main};
use der::{Decode, Sequence, asn1::AnyRef, asn1::IntRef, asn1::OctetStringRef};
use jarchy::index::{Index, Record};
use jarchy::metrics::Metrics;
use jarchy::ocsp::request::{self, Limits};
use jarchy::ocsp::{Authority, Client, Credential, LiveRate, Policy, Presign, Responder};
use jarchy::pki::{Certificate, HashAlgorithm, Issuer, ManualClock, Serial, Status, Time};
use jarchy::sign::Signer;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use std::hint::black_box;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The derived decoder of the `der` crate on the same request, as the yardstick for our own cursor.
#[derive(Sequence)]
struct DerivedRequest<'a> {
    tbs: DerivedTbs<'a>,
}
#[derive(Sequence)]
struct DerivedTbs<'a> {
    list: Vec<DerivedSingle<'a>>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<AnyRef<'a>>,
}
#[derive(Sequence)]
struct DerivedSingle<'a> {
    cert_id: DerivedCertId<'a>,
}
#[derive(Sequence)]
struct DerivedCertId<'a> {
    algorithm: AnyRef<'a>,
    name_hash: &'a OctetStringRef,
    key_hash: &'a OctetStringRef,
    serial: IntRef<'a>,
}

/// Certificates of which an answer is kept.
const CERTIFICATES: usize = 1_000_000;
/// Octets of the key of an entry: signer, hash, options, a serial of 16 octets.
const KEY: usize = 22;

struct Setup {
    responder: Responder,
    runtime: tokio::runtime::Runtime,
    plain: Vec<u8>,
    with_nonce: Vec<u8>,
    /// One for each certificate, without a nonce.
    requests: Vec<Vec<u8>>,
}

fn setup(algorithm: &'static rcgen::SignatureAlgorithm) -> Setup {
    setup_of(&Keys::made(algorithm), 1, 1 << 20, Presign::None)
}

/// The serials have 16 octets.
fn serial(n: usize) -> Serial {
    Serial::from_content(&[&[0x5a; 8][..], &u64::try_from(n).unwrap().to_be_bytes()].concat()).unwrap()
}

/// A CA, and the delegate that answers for it.
struct Keys {
    ca: Certificate,
    delegate: Certificate,
    /// Of the delegate, PKCS#8 in PEM.
    key: String,
}

impl Keys {
    fn made(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        let ca = params.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        let issuer = rcgen::Issuer::from_params(&params, &ca_key);
        let delegate = params.signed_by(&key, &issuer).unwrap();
        let certificate = |certificate: &rcgen::Certificate| Certificate::from_der(certificate.der()).unwrap();
        Self { ca: certificate(&ca), delegate: certificate(&delegate), key: key.serialize_pem() }
    }

    /// Those of this name in `testdata/pki`.
    fn stored(name: &str) -> Self {
        let pki = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pki");
        let read = |file: String| std::fs::read(pki.join(file)).unwrap();
        let certificate = |file| Certificate::from_file_bytes(&read(file)).unwrap();
        Self {
            ca: certificate(format!("ca-{name}.pem")),
            delegate: certificate(format!("ocsp-{name}.pem")),
            key: String::from_utf8(read(format!("ocsp-{name}.key"))).unwrap(),
        }
    }
}

/// A responder for so many certificates, with so much memory for answers.
fn setup_of(keys: &Keys, certificates: usize, cache_bytes: usize, presign: Presign) -> Setup {
    let Keys { ca, delegate, key } = keys;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pem");
    std::fs::write(&file, key).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let signer = Arc::new(Signer::from_file(&file, delegate).unwrap());

    let now = Time::from_unix(1_795_000_000);
    let index = Arc::new(Index::new());
    let year = Duration::from_secs(365 * 86_400);
    let record =
        Record { not_before: now, not_after: now + year, status: Status::Good, since: Time::default(), sha256: None };
    index.load((0..certificates).map(|n| (serial(n), record)).collect());
    index.vouch(now);
    index.set_complete();
    let issuer = Arc::new(Issuer { name: "bench".parse().unwrap(), certificate: ca.clone() });
    let hashes = issuer.hashes(HashAlgorithm::Sha1);
    let cert_id = |n| request::encode_cert_id(&hashes, serial(n).as_bytes());
    // A nonce each time, as often as can be signed.
    let policy = Policy { live_rate: LiveRate { issuer: 1_000_000_000, client: 1 }, presign, ..Policy::default() };
    let authority =
        Authority::new(issuer, index, vec![Credential::new(0, signer, Some(delegate.clone()))], policy, now).unwrap();
    let clock = Arc::new(ManualClock::new(now));
    let responder = Responder::new(vec![authority], cache_bytes, Limits::default(), clock, Metrics::new());
    Setup {
        responder,
        runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
        plain: request::encode(&cert_id(0), None),
        with_nonce: request::encode(&cert_id(0), Some(&[7; 32])),
        requests: (0..certificates).map(|n| request::encode(&cert_id(n), None)).collect(),
    }
}

fn parse(c: &mut Criterion) {
    let setup = setup(&rcgen::PKCS_ECDSA_P256_SHA256);
    let mut group = c.benchmark_group("ocsp/parse");
    for (name, bytes) in [("plain", &setup.plain), ("nonce", &setup.with_nonce)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let request = request::parse(black_box(bytes), Limits::default()).unwrap();
                black_box(request.cert_ids().next())
            });
        });
        group.bench_function(format!("{name}, der's derive"), |b| {
            b.iter(|| black_box(DerivedRequest::from_der(black_box(bytes)).unwrap()));
        });
    }
    group.finish();
}

fn answer(c: &mut Criterion) {
    let mut group = c.benchmark_group("ocsp/answer");
    let algorithms = [("P-256", &rcgen::PKCS_ECDSA_P256_SHA256), ("Ed25519", &rcgen::PKCS_ED25519)];
    for (name, algorithm) in algorithms {
        let setup = setup(algorithm);
        // A nonce asks for a signature of its own, so this is the whole of parse, look up, sign and render.
        group.bench_function(format!("signed, {name}"), |b| {
            b.iter(|| {
                setup.runtime.block_on(setup.responder.answer(Client::LOCAL, None, black_box(&setup.with_nonce)))
            });
        });
        group.bench_function(format!("from the cache, {name}"), |b| {
            b.iter(|| setup.runtime.block_on(setup.responder.answer(Client::LOCAL, None, black_box(&setup.plain))));
        });
    }
    // No memory for answers, so that each is signed and kept for nobody.
    let setup = setup_of(&Keys::made(&rcgen::PKCS_ECDSA_P256_SHA256), 1_000, 0, Presign::None);
    let mut next = setup.requests.iter().cycle();
    group.bench_function("cold, P-256", |b| {
        b.iter(|| setup.runtime.block_on(setup.responder.answer(Client::LOCAL, None, next.next().unwrap())));
    });
    group.finish();
}

/// Answers that are kept: what each takes, and what one of many costs when memory is cold.
fn many(c: &mut Criterion) {
    let certificates = if is_smoke() { 10_000 } else { CERTIFICATES };
    let setup = setup_of(&Keys::made(&rcgen::PKCS_ECDSA_P256_SHA256), certificates, 4 << 30, Presign::None);
    let ask = |request: &[u8]| setup.runtime.block_on(setup.responder.answer(Client::LOCAL, None, request));
    let began = Instant::now();
    for request in &setup.requests {
        ask(request);
    }
    let took = began.elapsed();
    let (entries, bytes) = setup.responder.cache_size();
    let each = bytes as f64 / entries as f64;
    println!(
        "ocsp/cache: {entries} answers of P-256, signed in {took:.1?}, {bytes} octets: {each:.1} each, {:.1} beyond the \
         key of {KEY}",
        each - KEY as f64
    );
    // An order that no cache line and no prefetcher can guess.
    let mut at = 0;
    c.bench_function("ocsp/answer/one of a million from the cache, P-256", |b| {
        b.iter(|| {
            at = (at + 0x9e37_79b1) % setup.requests.len();
            ask(black_box(&setup.requests[at]))
        });
    });
}

/// With `--test` it is only to be seen that everything works.
fn is_smoke() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// All answers of an issuer signed ahead, by turns with ring alone signing as many messages of the same length.
fn presign(_: &mut Criterion) {
    type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;
    let random = SystemRandom::new;
    let p256 = |pkcs8: &[u8]| -> Sign {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &random()).unwrap();
        Box::new(move |message| key.sign(&random(), message).unwrap().as_ref().to_vec())
    };
    let rsa = |pkcs8: &[u8]| -> Sign {
        let key = RsaKeyPair::from_pkcs8(pkcs8).unwrap();
        Box::new(move |message| {
            let mut signature = vec![0; key.public().modulus_len()];
            key.sign(&RSA_PKCS1_SHA256, &random(), message, &mut signature).unwrap();
            signature
        })
    };
    for (name, certificates) in [("p256", 10_000), ("rsa2048", 500)] {
        let keys = Keys::stored(name);
        let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(keys.key.as_bytes()).unwrap();
        let pkcs8 = pkcs8.secret_pkcs8_der();
        let sign = if name == "p256" { p256(pkcs8) } else { rsa(pkcs8) };
        let (rounds, certificates) = if is_smoke() { (1, 10) } else { (7, certificates) };
        let round = |_| {
            let setup = setup_of(&keys, certificates, 1 << 28, Presign::All { rate: u32::MAX });
            let began = Instant::now();
            setup.runtime.block_on(setup.responder.refresh_once());
            let ours = began.elapsed();
            // Under both hashes.
            let (signed, _) = setup.responder.cache_size();
            assert_eq!(signed, certificates * 2);
            let began = Instant::now();
            (0..signed).for_each(|_| _ = black_box(sign(black_box(&[0x5a; 200]))));
            let rate = |took: Duration| signed as f64 / took.as_secs_f64();
            (rate(ours) / rate(began.elapsed()), rate(ours))
        };
        let mut shares: Vec<(f64, f64)> = (0..rounds).map(round).collect();
        shares.sort_by(|one, other| one.0.total_cmp(&other.0));
        let at = |quarter: usize| shares[(rounds - 1) * quarter / 4];
        println!(
            "ocsp/presign {name}: {:.0} answers a second, {:.2} ({:.2}–{:.2}) of ring's own rate",
            at(2).1,
            at(2).0,
            at(1).0,
            at(3).0
        );
    }
}

fn limit(c: &mut Criterion) {
    let setup = setup(&rcgen::PKCS_ECDSA_P256_SHA256);
    let reply = setup.runtime.block_on(setup.responder.answer(Client::LOCAL, None, &setup.plain));
    let (random, signing) = (SystemRandom::new(), &ECDSA_P256_SHA256_ASN1_SIGNING);
    let key = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(signing, key.as_ref(), &random).unwrap();
    // What no responder can go below: one signature over as many octets as a response has.
    c.bench_function("ocsp/limit: one P-256 signature by ring", |b| {
        b.iter(|| key.sign(&random, black_box(&reply.body)).unwrap());
    });
}

criterion_group!(benches, parse, answer, presign, many, limit);
criterion_main!(benches);
