//! What the parts of an OCSP answer cost: reading the request, making the answer with and without a signature.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, criterion_group, criterion_main};
use der::{Decode, Sequence, asn1::AnyRef, asn1::IntRef, asn1::OctetStringRef};
use jarchy::index::{Index, Record};
use jarchy::metrics::Metrics;
use jarchy::ocsp::request::{self, Limits};
use jarchy::ocsp::{Authority, Client, LiveRate, NoncePolicy, NotIssued, Policy, Presign, Responder};
use jarchy::pki::{Certificate, HashAlgorithm, Issuer, ManualClock, Serial, Status, Time};
use jarchy::sign::Signer;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use std::hint::black_box;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

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

struct Setup {
    responder: Responder,
    runtime: tokio::runtime::Runtime,
    plain: Vec<u8>,
    with_nonce: Vec<u8>,
}

fn setup(algorithm: &'static rcgen::SignatureAlgorithm) -> Setup {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    let ca = params.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    let issuer = rcgen::Issuer::from_params(&params, &ca_key);
    let delegate = params.signed_by(&key, &issuer).unwrap();
    let (ca, delegate) = (Certificate::from_der(ca.der()).unwrap(), Certificate::from_der(delegate.der()).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pem");
    std::fs::write(&file, key.serialize_pem()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let signer = Arc::new(Signer::from_file(&file, &delegate).unwrap());

    let now = Time::from_unix(1_795_000_000);
    let serial = Serial::from_content(&[0x5a; 16]).unwrap();
    let index = Arc::new(Index::new());
    let year = Duration::from_secs(365 * 86_400);
    let record = Record { not_before: now, not_after: now + year, status: Status::Good, since: Time::default() };
    index.load(vec![(serial, record)]);
    index.vouch(now);
    index.set_complete();
    let issuer = Arc::new(Issuer { name: "bench".parse().unwrap(), certificate: ca });
    let cert_id = request::encode_cert_id(&issuer.hashes(HashAlgorithm::Sha1), serial.as_bytes());
    let policy = Policy {
        lifetime: Duration::from_secs(3_600),
        max_age_good: Duration::from_secs(60),
        max_age_uncertain: Duration::from_secs(60),
        not_issued: NotIssued::Unauthorized,
        nonce: NoncePolicy::Live,
        max_staleness: Duration::from_secs(60),
        live_rate: LiveRate::default(),
        presign: Presign::Hot,
    };
    let authority = Authority::new(0, issuer, index, signer, Some(&delegate), policy, now).unwrap();
    let clock = Arc::new(ManualClock::new(now));
    let responder = Responder::new(vec![authority], 1 << 20, Limits::default(), clock, Metrics::new());
    Setup {
        responder,
        runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
        plain: request::encode(&cert_id, None),
        with_nonce: request::encode(&cert_id, Some(&[7; 32])),
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
    group.finish();
}

fn limit(c: &mut Criterion) {
    let setup = setup(&rcgen::PKCS_ECDSA_P256_SHA256);
    let reply = setup.runtime.block_on(setup.responder.answer(Client::LOCAL, None, &setup.plain));
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        &ring::rand::SystemRandom::new(),
    );
    let random = ring::rand::SystemRandom::new();
    let signing = &ring::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
    let key = ring::signature::EcdsaKeyPair::from_pkcs8(signing, key.unwrap().as_ref(), &random).unwrap();
    // What no responder can go below: one signature over as many octets as a response has.
    c.bench_function("ocsp/limit: one P-256 signature by ring", |b| {
        b.iter(|| key.sign(&random, black_box(&reply.body)).unwrap());
    });
}

criterion_group!(benches, parse, answer, limit);
criterion_main!(benches);
