//! What lookups, changes and loads cost in the index, and what it takes of memory.
//!
//! `JARCHY_BENCH_LARGE=1` adds 100 million certificates: 3 GB and some minutes.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hdrhistogram::Histogram;
use jarchy::index::file::{self, Label, Subject};
use jarchy::index::{Index, Record};
use jarchy::pki::{Reason, Revocation, Serial, Status, Time};
use memmap2::{Advice, MmapMut};
use ring::digest::{Context, SHA256};
use std::fs::File;
use std::hint::black_box;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SIZES: [u64; 3] = [10_000, 1_000_000, 10_000_000];
const LARGE: u64 = 100_000_000;

/// With `--test` it is only to be seen that everything works.
fn is_smoke() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// What readers and files are measured with.
fn size() -> u64 {
    if is_smoke() { 100_000 } else { 10_000_000 }
}

fn sizes() -> Vec<u64> {
    if is_smoke() {
        return vec![10_000, size()];
    }
    let large = std::env::var_os("JARCHY_BENCH_LARGE").map(|_| LARGE);
    SIZES.into_iter().chain(large).collect()
}

/// The `n`th of the serials: 16 octets, scattered. Made of the number when it is asked for, in two
/// nanoseconds, so that no memory but the index's own is read.
fn serial(n: u64) -> Serial {
    let mut octets = [0; 16];
    let high = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1) | (1 << 62);
    octets[..8].copy_from_slice(&high.to_be_bytes());
    octets[8..].copy_from_slice(&n.wrapping_mul(0xf39c_c060_5ced_c835).to_be_bytes());
    Serial::from_content(&octets).unwrap()
}

fn record(number: u64) -> Record {
    let not_before = Time::from_unix(1_790_000_000 + i64::try_from(number % 10_000_000).unwrap());
    let revocation = Revocation { at: not_before, reason: Reason::Superseded, invalidity_date: None };
    // One in a hundred is revoked.
    let status = if number.is_multiple_of(100) { Status::Revoked(revocation) } else { Status::Good };
    let year = Duration::from_secs(365 * 86_400);
    Record { not_before, not_after: not_before + year, status, since: Time::default(), sha256: None }
}

/// As the feed does it: page by page.
fn filled(size: u64) -> Index {
    let index = Index::new();
    for first in (0..size).step_by(2_000) {
        index.stage((first..size.min(first + 2_000)).map(|n| (serial(n), record(n))).collect());
    }
    index.settle();
    index
}

/// A number below `size` that no cache foresees, and that depends on `seed`.
fn scattered(state: &mut u64, seed: u64, size: u64) -> u64 {
    *state = (*state ^ seed).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    u64::try_from((u128::from(*state) * u128::from(size)) >> 64).unwrap()
}

/// `VmRSS` of this process in MB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_000
}

/// Lookups, each of a serial that depends on what the last one said (what a request waits for) and each by
/// itself (what a busy server does). `floor` is one dependent read of as much memory in huge pages: no index can
/// be faster than that.
fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("index/lookup");
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(2));
    for size in sizes() {
        let (before, began) = (resident(), Instant::now());
        let index = filled(size);
        let (took, octets) = (began.elapsed(), index.view().octets());
        println!(
            "index/load {size}: {took:.1?}, {} octets for 100 certificates, {} MB resident",
            octets as u64 * 100 / size,
            resident() - before
        );
        let mut state = 20_261_128;
        group.bench_function(BenchmarkId::new("chained", size), |b| {
            let mut last = 0;
            b.iter(|| {
                let n = scattered(&mut state, last, size);
                last = index.view().get(&serial(n)).unwrap().not_before.unix().cast_unsigned();
            });
        });
        group.bench_function(BenchmarkId::new("independent", size), |b| {
            b.iter(|| {
                let n = scattered(&mut state, 0, size);
                black_box(index.view().get(&serial(n)).unwrap())
            });
        });
        group.bench_function(BenchmarkId::new("not-issued", size), |b| {
            b.iter(|| {
                let n = size + scattered(&mut state, 0, size);
                black_box(index.view().get(&serial(n)))
            });
        });
        let mut memory = MmapMut::map_anon(octets.next_multiple_of(2 << 20)).unwrap();
        memory.advise(Advice::HugePage).unwrap();
        memory.chunks_mut(64).for_each(|line| line[0] = 1);
        let lines = u64::try_from(octets / 64).unwrap();
        group.bench_function(BenchmarkId::new("floor", size), |b| {
            let mut last = 0;
            b.iter(|| {
                let line = usize::try_from(scattered(&mut state, last, lines)).unwrap();
                last = u64::from(memory[line * 64]);
            });
        });
    }
    group.finish();
}

/// A thousand changes a second, two hundred batches, while a reader looks up and notes how long each takes.
fn readers(index: &Index) {
    let (size, time) = (size(), Duration::from_secs(if is_smoke() { 1 } else { 10 }));
    let read = |stop: &dyn Fn() -> bool| {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3).unwrap();
        let (mut state, mut last) = (1, Instant::now());
        while !stop() {
            for _ in 0..1_000 {
                let n = scattered(&mut state, 0, size);
                black_box(index.view().get(&serial(n)));
                let now = Instant::now();
                histogram.record(u64::try_from((now - last).as_nanos()).unwrap()).unwrap();
                last = now;
            }
        }
        histogram
    };
    for round in 0..3 {
        let began = Instant::now();
        let alone = read(&|| began.elapsed() > time);
        let (done, began) = (AtomicBool::new(false), Instant::now());
        let (beside, busy) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut busy = Duration::ZERO;
                for batch in 0..200 * time.as_secs() {
                    let due = began + Duration::from_millis(5) * u32::try_from(batch).unwrap();
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let at = Time::from_unix(1_795_000_000 + i64::try_from(batch).unwrap());
                    let status = Status::Revoked(Revocation { at, reason: Reason::Superseded, invalidity_date: None });
                    let (mut state, started) = (batch ^ round << 32, Instant::now());
                    let rows = (0..5).map(|_| scattered(&mut state, 0, size));
                    index.apply(&rows.map(|n| (serial(n), Record { status, ..record(n) })).collect::<Vec<_>>());
                    busy += started.elapsed();
                }
                done.store(true, Ordering::Relaxed);
                busy
            });
            (read(&|| done.load(Ordering::Relaxed)), writer.join().unwrap())
        });
        for (name, histogram) in [("alone", alone), ("1,000 changes/s", beside)] {
            let at = |quantile| histogram.value_at_quantile(quantile);
            println!(
                "index/readers {name}: p50 {} ns, p99 {} ns, p99.9 {} ns, p99.99 {} ns, p99.999 {} ns, max {} µs",
                at(0.5),
                at(0.99),
                at(0.999),
                at(0.9999),
                at(0.99999),
                histogram.max() / 1_000
            );
        }
        println!("index/readers: the writer took {:.1} % of a core", busy.as_secs_f64() / time.as_secs_f64() * 100.0);
    }
}

/// The snapshot file: written, read back, and beside it no more than read and hashed by one thread.
fn snapshot(index: &Index) {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = dir.path().join("index");
    let label = Label { database: "bench/1".to_owned(), cursor: String::new(), reconciled: 0 };
    let subject = Subject { name: "bench", ca: [0; 32], shards: false };
    for _ in 0..3 {
        let began = Instant::now();
        let octets = file::write(&path, &label, &[(subject, index)]).unwrap();
        let (wrote, began) = (began.elapsed(), Instant::now());
        let (mut plain, mut context) = (File::open(&path).unwrap(), Context::new(&SHA256));
        let mut piece = vec![0; 256 << 10];
        while let Ok(read @ 1..) = plain.read(&mut piece) {
            context.update(&piece[..read]);
        }
        black_box(context.finish());
        let (hashed, began) = (began.elapsed(), Instant::now());
        let (_, read) = file::read(&path, &[subject], None, Time::MAX).unwrap();
        let loaded = began.elapsed();
        assert_eq!(read[0].issued(), index.issued());
        println!(
            "index/file: {} MB written in {wrote:.2?}, read and hashed in {hashed:.2?}, loaded in {loaded:.2?}: {:.2} ×",
            octets / 1_000_000,
            loaded.as_secs_f64() / hashed.as_secs_f64()
        );
    }
}

fn large(_: &mut Criterion) {
    let index = filled(size());
    snapshot(&index);
    readers(&index);
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("index/apply-100");
    for size in [10_000, 1_000_000] {
        let index = filled(size);
        let mut round = 0;
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_batched(
                || {
                    round += 1;
                    let at = Time::from_unix(1_790_000_000 + i64::try_from(round).unwrap());
                    let status = Status::Revoked(Revocation { at, reason: Reason::Superseded, invalidity_date: None });
                    let number = |n: u64| (round * 100 + n) * 7_919 % size;
                    let row = |n| (serial(number(n)), Record { status, since: at, ..record(number(n)) });
                    (0..100).map(row).collect::<Vec<_>>()
                },
                |batch| index.apply(&batch),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, lookup, apply, large);
criterion_main!(benches);
