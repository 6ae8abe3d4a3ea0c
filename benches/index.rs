//! What a lookup, a batch of changes and a load cost in the index.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jarchy::index::{Index, Record};
use jarchy::pki::{Reason, Revocation, Serial, Status, Time};
use ring::rand::{SecureRandom, SystemRandom};
use std::hint::black_box;
use std::time::Duration;

const SIZES: [usize; 2] = [10_000, 1_000_000];

fn random_serials(count: usize) -> Vec<Serial> {
    let mut octets = vec![0; count * 16];
    SystemRandom::new().fill(&mut octets).unwrap();
    octets.chunks_exact(16).map(|chunk| Serial::from_magnitude(chunk).unwrap()).collect()
}

fn record(number: usize) -> Record {
    let not_before = Time::from_unix(1_790_000_000);
    let revocation = Revocation { at: not_before, reason: Reason::Superseded, invalidity_date: None };
    // One in a hundred is revoked.
    let status = if number.is_multiple_of(100) { Status::Revoked(revocation) } else { Status::Good };
    Record {
        not_before,
        not_after: not_before + Duration::from_secs(365 * 86_400),
        status,
        since: Time::default(),
        sha256: None,
    }
}

fn filled(serials: &[Serial]) -> Index {
    let index = Index::new();
    index.load(serials.iter().enumerate().map(|(number, serial)| (*serial, record(number))).collect());
    index
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("index/lookup");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        let serials = random_serials(size);
        let strangers = random_serials(size);
        let index = filled(&serials);
        // A stride that is prime to the sizes visits all of them in an order that no cache foresees.
        for (name, asked) in [("hit", &serials), ("miss", &strangers)] {
            let mut at = 0;
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| {
                    at = (at + 611_953) % size;
                    black_box(index.view().get(&asked[at]))
                });
            });
        }
    }
    group.finish();
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("index/apply-100");
    for size in SIZES {
        let serials = random_serials(size);
        let index = filled(&serials);
        let mut round = 0_usize;
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_batched(
                || {
                    round += 1;
                    let at = Time::from_unix(1_790_000_000 + i64::try_from(round).unwrap());
                    let status = Status::Revoked(Revocation { at, reason: Reason::Superseded, invalidity_date: None });
                    let serial = |n: usize| serials[(round * 100 + n) * 7_919 % size];
                    (0..100).map(|n| (serial(n), Record { status, since: at, ..record(n) })).collect::<Vec<_>>()
                },
                |batch| index.apply(&batch),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn load(c: &mut Criterion) {
    let serials = random_serials(1_000_000);
    let mut group = c.benchmark_group("index/load");
    group.sample_size(10).throughput(Throughput::Elements(1_000_000));
    group.bench_function("1000000", |b| b.iter(|| filled(&serials)));
    group.finish();
}

criterion_group!(benches, lookup, apply, load);
criterion_main!(benches);
