//! What a complete CRL costs, beside the least that it could cost: copying its bytes and signing them,
//! which is one SHA-256 over them and one signature. Also reading it back, changing one entry, and
//! recording revocations in the state store.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use jarchy::crl::encode::{Edit, Entries, Head, lay, seal};
use jarchy::crl::read::List;
use jarchy::pki::{Certificate, Reason, Revocation, Serial, Time};
use jarchy::sign::{Signer, verify};
use jarchy::state::{Seen, State};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use ring::rand::{SecureRandom, SystemRandom};
use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

const SIZES: [usize; 2] = [10_000, 1_000_000];
const NOW: Time = Time::from_unix(1_795_327_200);
/// With a reason, an entry with a 16-byte serial takes 49 bytes (CRL-09).
const REVOCATION: Revocation = Revocation { at: NOW, reason: Reason::Superseded, invalidity_date: None };

struct Ca {
    certificate: Certificate,
    signer: Signer,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(key.serialize_pem().as_bytes()).unwrap();
        let signer = Signer::from_file(file.path(), &certificate).unwrap();
        Self { certificate, signer }
    }

    fn head(&self) -> Head<'_> {
        Head {
            algorithm: self.signer.algorithm(),
            issuer: self.certificate.subject(),
            authority_key: &[7; 20],
            this_update: NOW,
            next_update: NOW + Duration::from_secs(48 * 3_600),
            number: 1_795_327_200,
            base: None,
            freshest: Some("http://crl.example/crl/demo-delta.crl"),
        }
    }

    fn list(&self, entries: &Entries, buffer: &mut Vec<u8>) -> std::ops::Range<usize> {
        let head = self.head();
        let tbs = lay(buffer, &head, entries.runs());
        let signature = self.signer.sign(&buffer[tbs]).unwrap();
        seal(buffer, &head, &signature)
    }
}

fn random_serials(count: usize) -> Vec<Serial> {
    let mut octets = vec![0; count * 16];
    SystemRandom::new().fill(&mut octets).unwrap();
    // No sign pad, so that all are of the same length.
    octets.iter_mut().step_by(16).for_each(|first| *first = *first & 0x3f | 0x40);
    let mut serials: Vec<Serial> =
        octets.chunks_exact(16).map(|chunk| Serial::from_magnitude(chunk).unwrap()).collect();
    serials.sort_unstable();
    serials
}

fn complete(c: &mut Criterion) {
    let ca = Ca::new();
    let mut group = c.benchmark_group("crl/complete");
    group.sample_size(20);
    for size in SIZES {
        let serials = random_serials(size);
        let entries = Entries::from_sorted(serials.iter().map(|serial| (serial, &REVOCATION, Time::MAX)));
        let mut buffer = Vec::new();
        let range = ca.list(&entries, &mut buffer);
        let list = buffer[range].to_vec();
        let tbs = List::read(&list).unwrap().tbs.to_vec();
        group.throughput(Throughput::Bytes(list.len() as u64));

        let mut copy = tbs.clone();
        group.bench_function(BenchmarkId::new("limit (copy, hash, signature)", size), |b| {
            b.iter(|| {
                copy.copy_from_slice(black_box(&tbs));
                ca.signer.sign(&copy).unwrap()
            });
        });
        group.bench_function(BenchmarkId::new("build", size), |b| {
            b.iter(|| ca.list(black_box(&entries), &mut buffer));
        });
        let read = |list: &List<'_>| list.entries().map(|entry| entry.unwrap().serial).max();
        let check = |list: &List<'_>| {
            verify::signature(ca.certificate.spki(), list.algorithm, list.tbs, list.signature).unwrap();
        };
        group.bench_function(BenchmarkId::new("read back", size), |b| {
            b.iter(|| read(&List::read(black_box(&list)).unwrap()));
        });
        // As the publisher does it: entries and signature at the same time.
        group.bench_function(BenchmarkId::new("build, read back, verify", size), |b| {
            b.iter(|| {
                let range = ca.list(black_box(&entries), &mut buffer);
                let list = List::read(&buffer[range]).unwrap();
                std::thread::scope(|scope| {
                    scope.spawn(|| check(&list));
                    read(&list)
                })
            });
        });
    }
    group.finish();
}

fn edit(c: &mut Criterion) {
    let mut group = c.benchmark_group("crl/one-more");
    for size in SIZES {
        let serials = random_serials(size);
        let listed = serials.iter().skip(1).map(|serial| (serial, &REVOCATION, Time::MAX));
        let entries = Entries::from_sorted(listed);
        let edits = [(serials[0], Edit::List { revocation: REVOCATION, prune_key: Time::MAX })];
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                let mut next = entries.clone();
                next.apply(black_box(&edits));
                next
            });
        });
    }
    group.finish();
}

fn record(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let issuer = "demo".parse().unwrap();
    let mut group = c.benchmark_group("state/record");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for size in [1, 1_000, 1_000_000] {
        let seen = Seen { not_before: NOW, not_after: Time::MAX, revocation: REVOCATION, learned: NOW };
        let batch: Vec<_> = random_serials(size).into_iter().map(|serial| (serial, Some(seen))).collect();
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let dir = tempfile::tempdir().unwrap();
                    runtime.block_on(async {
                        let state = State::open(&dir.path().join("state.db")).await.unwrap();
                        let begun = Instant::now();
                        state.record(&issuer, &batch).await.unwrap();
                        spent += begun.elapsed();
                        state.close().await;
                    });
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, complete, edit, record);
criterion_main!(benches);
