//! What a complete CRL costs, beside the least that it could cost: copying its bytes and signing them,
//! which is one SHA-256 over them and one signature. Also reading it back, changing one entry, recording
//! revocations in the state store, and the whole way of one more revocation from the index to the list
//! that is served, on a disk and in memory (`/dev/shm`): the difference is what fsync costs.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use jarchy::crl::encode::{Head, lay, seal};
use jarchy::crl::entries::{Edit, Entries};
use jarchy::crl::read::List;
use jarchy::crl::{Parts, Publisher, PublisherConfig, Share, Shelf};
use jarchy::health::Health;
use jarchy::index::{Index, Record};
use jarchy::metrics::Metrics;
use jarchy::pki::{Certificate, Clock, ClockGuard, Issuer, ManualClock, Reason, Revocation, Serial, Status, Time};
use jarchy::sign::{Signer, verify};
use jarchy::state::{Seen, State};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use ring::rand::{SecureRandom, SystemRandom};
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const SIZES: [usize; 4] = [1_000, 100_000, 1_000_000, 10_000_000];
/// Lists on which one more revocation is published.
const SERVED: [usize; 3] = [1_000, 100_000, 1_000_000];
const NOW: Time = Time::from_unix(1_795_327_200);
/// With a reason, an entry with a 16-byte serial takes 49 bytes (CRL-09).
const REVOCATION: Revocation = Revocation { at: NOW, reason: Reason::Superseded, invalidity_date: None };

struct Ca {
    certificate: Certificate,
    signer: Arc<Signer>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(key.serialize_pem().as_bytes()).unwrap();
        let signer = Arc::new(Signer::from_file(file.path(), &certificate).unwrap());
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
            ..Head::default()
        }
    }

    fn list(&self, entries: &Entries, buffer: &mut Vec<u8>) -> std::ops::Range<usize> {
        self.list_with(&self.head(), entries, buffer)
    }

    fn list_with(&self, head: &Head<'_>, entries: &Entries, buffer: &mut Vec<u8>) -> std::ops::Range<usize> {
        let laid = lay(buffer, head, entries.runs());
        let signature = self.signer.sign(&buffer[laid.tbs]).unwrap();
        seal(buffer, head, &signature)
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
    group.sample_size(10);
    for size in SIZES {
        let serials = random_serials(size);
        let entries = Entries::from_sorted(serials.iter().map(|serial| (serial, &REVOCATION, Time::MAX)));
        let mut buffer = Vec::new();
        let range = ca.list(&entries, &mut buffer);
        let list = buffer[range].to_vec();
        let tbs = List::read(&list).unwrap().tbs.to_vec();
        group.throughput(Throughput::Bytes(list.len() as u64));

        let mut copy = tbs.clone();
        if size > 1_000_000 {
            group.measurement_time(Duration::from_secs(10));
        }
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

/// A publisher at work on an index of `size` revoked certificates.
struct House {
    index: Arc<Index>,
    shelf: Arc<Shelf>,
    clock: Arc<ManualClock>,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<()>,
    more: u64,
    _dir: tempfile::TempDir,
}

impl House {
    async fn open(ca: &Ca, size: usize, place: &Path) -> Self {
        let index = Arc::new(Index::new());
        index.load(random_serials(size).into_iter().map(|serial| (serial, record(NOW))).collect());
        Self::publish(ca, index, place).await
    }

    async fn publish(ca: &Ca, index: Arc<Index>, place: &Path) -> Self {
        let dir = tempfile::tempdir_in(place).unwrap();
        let (clock, shelf) = (Arc::new(ManualClock::new(NOW)), Arc::new(Shelf::new()));
        let parts = Parts {
            issuer: Issuer { name: "demo".parse().unwrap(), certificate: ca.certificate.clone() },
            signer: Arc::clone(&ca.signer),
            share: Share::whole(Arc::clone(&index)),
            state: State::open(&dir.path().join("state.db")).await.unwrap(),
            clock: Arc::new(ClockGuard::new(Arc::clone(&clock) as Arc<dyn Clock>)),
            shelf: Arc::clone(&shelf),
            outlets: Vec::new(),
            health: Health::new(),
            metrics: Metrics::new(),
        };
        let config = PublisherConfig { debounce: Duration::ZERO, ..PublisherConfig::default() };
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(Publisher::new(config, parts).unwrap().run(stopped));
        index.vouch(NOW);
        index.set_complete();
        let mut house = Self { index, shelf, clock, stop, running, more: 0, _dir: dir };
        house.served(0).await;
        house.one_more().await;
        house
    }

    /// Waits for a list of a higher number.
    async fn served(&self, than: u64) -> u64 {
        loop {
            match self.shelf.complete() {
                Some(list) if list.number > than && self.is_twin(list.number) => return list.number,
                _ => tokio::time::sleep(Duration::from_micros(200)).await,
            }
        }
    }

    /// The first list of all has no delta, and is followed by one that has when a second has passed.
    fn is_twin(&self, number: u64) -> bool {
        self.more == 0 || self.shelf.delta().is_some_and(|delta| delta.number == number)
    }

    async fn one_more(&mut self) {
        let before = self.shelf.complete().unwrap().number;
        self.more += 1;
        let now = NOW + Duration::from_secs(self.more);
        self.clock.set(now);
        let serial = Serial::from_magnitude(&(1_u128 << 100 | u128::from(self.more)).to_be_bytes()).unwrap();
        self.index.vouch(now);
        self.index.apply(&[(serial, record(now))]);
        self.served(before).await;
    }

    async fn close(self) {
        self.stop.send_replace(true);
        self.running.await.unwrap();
    }
}

fn record(since: Time) -> Record {
    Record { not_before: NOW, not_after: Time::MAX, status: Status::Revoked(REVOCATION), since, sha256: None }
}

/// A line of `/proc/self/status`, in bytes.
fn memory(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1_024
}

/// Says into which size's publisher this process is to look.
const MEMORY_OF: &str = "JARCHY_BENCH_MEMORY";

/// The memory of a publisher over the list that it makes, each in a process of its own, so that nothing is
/// counted that an earlier one has left.
fn publisher_memory(_: &mut Criterion) {
    let own = std::env::current_exe().unwrap();
    let most = if std::env::var_os("JARCHY_LONG").is_some() { 10_000_000 } else { 1_000_000 };
    for size in SIZES.into_iter().filter(|size| (100_000..=most).contains(size)) {
        let told = std::process::Command::new(&own).env(MEMORY_OF, size.to_string()).output().unwrap();
        print!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    }
}

fn look_into_memory(size: usize) {
    let forget_peak = || std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (ca, index) = (Ca::new(), Arc::new(Index::new()));
    // A little at a time, as a feed does: what a load leaves behind for the allocator is small then.
    for part in random_serials(size).chunks(65_536) {
        index.load(part.iter().map(|serial| (*serial, record(NOW))).collect());
    }
    let base = memory("VmRSS");
    forget_peak();
    let mut house = runtime.block_on(House::publish(&ca, index, Path::new(env!("CARGO_TARGET_TMPDIR"))));
    let start = memory("VmHWM").saturating_sub(base);
    forget_peak();
    for _ in 0..5 {
        runtime.block_on(house.one_more());
    }
    let (peak, encoded) = (memory("VmHWM").saturating_sub(base), house.shelf.complete().unwrap().bytes.len());
    let over = |octets: usize| octets as f64 / encoded as f64;
    println!(
        "memory of a publisher with {size} entries, over the list of {encoded} B: {:.2} at its start, {:.2} then",
        over(start),
        over(peak)
    );
    runtime.block_on(house.close());
}

/// From the index to the shelf: edited, both lists signed and read back, durable, served.
fn one_more_served(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let ca = Ca::new();
    let mut group = c.benchmark_group("crl/one-more-served");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for size in SERVED {
        for (name, place) in [("disk", Path::new(env!("CARGO_TARGET_TMPDIR"))), ("memory", Path::new("/dev/shm"))] {
            if !place.is_dir() {
                continue;
            }
            let mut house = runtime.block_on(House::open(&ca, size, place));
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter_custom(|rounds| {
                    runtime.block_on(async {
                        let begun = Instant::now();
                        for _ in 0..rounds {
                            house.one_more().await;
                        }
                        begun.elapsed()
                    })
                });
            });
            runtime.block_on(house.close());
        }
    }
    group.finish();
}

/// A delta of so many changes, whatever the size of the complete list: built, read back and verified.
fn delta(c: &mut Criterion) {
    let ca = Ca::new();
    let mut group = c.benchmark_group("crl/delta");
    for size in [100, 1_000, 10_000] {
        let serials = random_serials(size);
        let entries = Entries::from_sorted(serials.iter().map(|serial| (serial, &REVOCATION, Time::MAX)));
        let head = Head { base: Some(1_795_327_100), freshest: None, ..ca.head() };
        let mut buffer = Vec::new();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                let range = ca.list_with(&head, black_box(&entries), &mut buffer);
                let list = List::read(&buffer[range]).unwrap();
                let signed = verify::signature(ca.certificate.spki(), list.algorithm, list.tbs, list.signature);
                signed.unwrap();
                list.entries().map(|entry| entry.unwrap().serial).max()
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

fn recorded(c: &mut Criterion) {
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

criterion_group!(benches, one_more_served, complete, delta, edit, recorded, publisher_memory);

fn main() {
    if let Some(size) = std::env::var(MEMORY_OF).ok().and_then(|size| size.parse().ok()) {
        return look_into_memory(size);
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
