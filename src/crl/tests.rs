//! What relying parties see of a publisher: its lists, over changes, restarts, crashes and failures.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use super::*;
use crate::health;
use crate::index::{Index, Record};
use crate::pki::{Clock, ManualClock, Reason, Revocation, SystemClock};
use crate::state::Seen;
use read::{List, Word};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

mod scopes;

/// 2026-11-22T06:00:00Z, a regular slot.
const SLOT: i64 = 1_795_327_200;
const HOUR: i64 = 3_600;

fn at(seconds: i64) -> Time {
    Time::from_unix(SLOT + seconds)
}

fn serial(n: u64) -> Serial {
    // Sixteen octets, half of them with a sign pad.
    Serial::from_magnitude(&(u128::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes())
        .unwrap()
}

fn because(reason: Reason, at: Time) -> Revocation {
    Revocation { at, reason, invalidity_date: None }
}

fn good(since: Time) -> Record {
    Record { not_before: at(-HOUR), not_after: at(365 * 24 * HOUR), status: Status::Good, since, sha256: None }
}

fn revoked(reason: Reason, since: Time) -> Record {
    Record { status: Status::Revoked(because(reason, since)), ..good(since) }
}

/// A key file that nobody else may read: others are refused.
fn write_key(path: &Path, pem: &str) {
    use std::io::Write as _;
    // Temporary files are private from the start.
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    file.persist(path).unwrap();
}

/// A CA with its files, and the parts of a node that a restart makes anew.
struct House {
    dir: TempDir,
    issuer: Issuer,
    signer: Arc<Signer>,
    clock: Arc<ManualClock>,
    guard: Arc<ClockGuard>,
    outlets: Vec<Arc<dyn Outlet>>,
    config: PublisherConfig,
    health: Health,
    index: Arc<Index>,
    shelf: Arc<Shelf>,
    state: State,
}

impl House {
    async fn new() -> Self {
        Self::with(&rcgen::PKCS_ECDSA_P256_SHA256).await
    }

    async fn with(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Test CA Ж");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        params.not_after = rcgen::date_time_ymd(2036, 1, 1);
        let ca = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        write_key(&dir.path().join("ca.key"), &key.serialize_pem());
        let certificate = Certificate::from_der(ca.der()).unwrap();
        let signer = Arc::new(Signer::from_file(&dir.path().join("ca.key"), &certificate).unwrap());
        let state = State::open(&dir.path().join("jarchy-state.db")).await.unwrap();
        let clock = Arc::new(ManualClock::new(at(0)));
        Self {
            dir,
            issuer: Issuer { name: "demo".parse().unwrap(), certificate },
            signer,
            guard: Arc::new(ClockGuard::new(Arc::clone(&clock) as Arc<dyn Clock>)),
            clock,
            outlets: Vec::new(),
            config: PublisherConfig {
                debounce: Duration::ZERO,
                public_url: Some("http://crl.example/".to_owned()),
                ..PublisherConfig::default()
            },
            health: Health::new(),
            index: Arc::new(Index::new()),
            shelf: Arc::new(Shelf::new()),
            state,
        }
    }

    fn publisher(&self) -> Publisher {
        self.publisher_of(Share::whole(Arc::clone(&self.index)), &self.shelf)
    }

    fn publisher_of(&self, share: Share, shelf: &Arc<Shelf>) -> Publisher {
        let parts = Parts {
            issuer: self.issuer.clone(),
            signer: Arc::clone(&self.signer),
            share,
            state: self.state.clone(),
            clock: Arc::clone(&self.guard),
            shelf: Arc::clone(shelf),
            outlets: self.outlets.clone(),
            health: self.health.clone(),
            metrics: Metrics::new(),
        };
        Publisher::new(self.config.clone(), parts).unwrap()
    }

    /// What a crash leaves: the files. The feed then fills a new index, `known` being what the state store
    /// remembers and `rows` what the database says.
    async fn restart(&mut self, known: &[(Serial, Record)], rows: &[(Serial, Record)]) {
        self.state.close().await;
        self.index = Arc::new(Index::new());
        self.shelf = Arc::new(Shelf::new());
        self.health = Health::new();
        self.state = State::open(&self.dir.path().join("jarchy-state.db")).await.unwrap();
        self.index.load(known.to_vec());
        self.index.load(rows.to_vec());
        self.reach_head();
    }

    /// Somebody changes the state store behind our back.
    async fn sql(&self, sql: &'static str) {
        use sqlx::ConnectOptions as _;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.dir.path().join("jarchy-state.db"));
        let mut connection = options.connect().await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }

    fn scope(&self) -> Scope {
        Scope::whole(&self.issuer.name)
    }

    fn reach_head(&self) {
        self.index.vouch(self.clock.now());
        self.index.set_complete();
    }

    /// The clock and the feed's knowledge go on to `now`.
    fn advance(&self, now: Time) {
        self.clock.set(now);
        self.index.vouch(now);
    }

    fn health(&self) -> (health::State, String) {
        let report = self.health.report().into_iter().next().unwrap();
        (report.state, report.reason.unwrap_or_default())
    }
}

/// Lets the publisher do all that is due.
async fn settle(publisher: &mut Publisher) {
    while publisher.step().await.unwrap().is_none() {}
    publisher.report();
}

fn words(list: &Published) -> BTreeMap<Serial, Word> {
    let read = List::read(&list.bytes).unwrap();
    let words: BTreeMap<_, _> = read.entries().map(|entry| entry.map(|e| (e.serial, e.word)).unwrap()).collect();
    assert_eq!(read.entries().count(), words.len(), "CRL-08");
    words
}

fn listed(list: &Published) -> BTreeMap<Serial, Revocation> {
    let revocation = |(serial, word)| match word {
        Word::Revoked(revocation) => (serial, revocation),
        Word::Removed(_) => panic!("{serial} is removed in a complete list"),
    };
    words(list).into_iter().map(revocation).collect()
}

fn base(list: &Published) -> u64 {
    List::read(&list.bytes).unwrap().base.unwrap()
}

/// `complete` combined with `delta` as RFC 5280 5.2.4 tells clients to.
fn combined(complete: &Published, delta: &Published) -> BTreeMap<Serial, Revocation> {
    let mut all = listed(complete);
    for (serial, word) in words(delta) {
        match word {
            Word::Revoked(revocation) => drop(all.insert(serial, revocation)),
            Word::Removed(_) => drop(all.remove(&serial)),
        }
    }
    all
}

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

fn openssl_crl(dir: &Path, list: &Published) -> String {
    let (file, ca) = (dir.join("list.crl"), dir.join("ca.pem"));
    std::fs::write(&file, &list.bytes).unwrap();
    let text = openssl(&[
        "crl",
        "-inform",
        "DER",
        "-in",
        file.to_str().unwrap(),
        "-noout",
        "-text",
        "-CAfile",
        ca.to_str().unwrap(),
    ]);
    assert!(text.contains("verify OK"), "{text}");
    text
}

#[tokio::test]
async fn the_first_complete_list_is_followed_by_a_delta_one_second_later() {
    let house = House::new().await;
    house.index.load(vec![(serial(1), good(Time::default())), (serial(2), revoked(Reason::KeyCompromise, at(-9)))]);
    let mut publisher = house.publisher();
    house.reach_head();
    settle(&mut publisher).await;
    let first = house.shelf.complete().unwrap();
    assert_eq!((first.this_update, first.next_update), (at(0), at(48 * HOUR)));
    assert_eq!(first.number, SLOT as u64);
    assert_eq!(listed(&first), BTreeMap::from([(serial(2), because(Reason::KeyCompromise, at(-9)))]));
    assert!(house.shelf.delta().is_none());
    assert_eq!(house.health().0, health::State::Ok);

    house.advance(at(1));
    settle(&mut publisher).await;
    let (complete, delta) = (house.shelf.complete().unwrap(), house.shelf.delta().unwrap());
    assert_eq!((delta.number, complete.number, base(&delta)), (first.number + 1, first.number + 1, first.number));
    assert_eq!((delta.this_update, complete.this_update), (at(1), at(1)), "twins (CRL-22)");
    assert_eq!(delta.next_update, at(1 + 12 * HOUR));
    assert!(words(&delta).is_empty());
    assert_eq!(*house.shelf.numbered(first.number).await.unwrap(), *first, "the base is served (CRL-60)");
    assert_eq!(house.shelf.numbered(first.number).await.unwrap().etag, first.etag);
    assert!(house.shelf.numbered(7).await.is_none());
}

#[tokio::test]
async fn nothing_is_made_before_the_index_is_complete() {
    let house = House::new().await;
    house.index.load(vec![(serial(2), revoked(Reason::KeyCompromise, at(-9)))]);
    house.index.vouch(at(0));
    let mut publisher = house.publisher();
    {
        let step = publisher.step();
        tokio::pin!(step);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut step).await;
        assert!(early.is_err() && house.shelf.complete().is_none());
        house.index.set_complete();
        step.await.unwrap();
    }
    assert!(house.shelf.complete().is_some());
}

#[tokio::test]
async fn openssl_reads_and_verifies_both_lists() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let house = House::with(algorithm).await;
        let mut publisher = house.publisher();
        house.reach_head();
        settle(&mut publisher).await;
        let empty = openssl_crl(house.dir.path(), &house.shelf.complete().unwrap());
        assert!(empty.contains("No Revoked Certificates"), "{empty}");

        let mut batch = Vec::new();
        for (n, reason) in Reason::ALL.into_iter().enumerate() {
            let mut record = revoked(reason, at(3));
            if let (Status::Revoked(said), 1) = (&mut record.status, n) {
                said.invalidity_date = Some(at(-30 * 24 * HOUR));
            }
            batch.push((serial(n as u64), record));
        }
        house.index.apply(&batch);
        house.advance(at(4));
        settle(&mut publisher).await;
        house.index.apply(&[(serial(6), good(at(5)))]);
        house.advance(at(6));
        settle(&mut publisher).await;

        let (complete, delta) = (house.shelf.complete().unwrap(), house.shelf.delta().unwrap());
        let text = openssl_crl(house.dir.path(), &complete);
        for line in [
            "Version 2 (0x1)",
            "X509v3 Authority Key Identifier:",
            "X509v3 Freshest CRL:",
            "URI:http://crl.example/crl/demo-delta.crl",
            "Key Compromise",
            "Invalidity Date:",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert_eq!(text.matches("Serial Number: ").count(), 8);
        for n in [0, 1, 2, 3, 4, 5, 7, 8] {
            assert!(text.contains(&format!("Serial Number: {}\n", serial(n))), "{n} in {text}");
        }
        let text = openssl_crl(house.dir.path(), &delta);
        assert!(text.contains("X509v3 Delta CRL Indicator: critical"), "{text}");
        assert!(text.contains("Remove From CRL") && !text.contains("Freshest CRL"), "{text}");
        assert_eq!(text.matches("Serial Number: ").count(), 9);
    }
}

#[tokio::test]
async fn crl_66_a_hold_that_came_and_went_since_the_base_is_removed() {
    let house = House::new().await;
    let mut publisher = house.publisher();
    house.reach_head();
    settle(&mut publisher).await;
    // Held in one list, released in the next; and another that no list ever showed.
    house.index.apply(&[(serial(1), revoked(Reason::CertificateHold, at(1)))]);
    house.advance(at(1));
    settle(&mut publisher).await;
    let between = house.shelf.complete().unwrap();
    house.index.apply(&[(serial(2), revoked(Reason::CertificateHold, at(2)))]);
    house.index.apply(&[(serial(1), good(at(2))), (serial(2), good(at(2)))]);
    house.advance(at(3));
    settle(&mut publisher).await;
    let (complete, delta) = (house.shelf.complete().unwrap(), house.shelf.delta().unwrap());
    assert!(listed(&complete).is_empty());
    assert_eq!(words(&delta), BTreeMap::from([1, 2].map(|n| (serial(n), Word::Removed(at(2))))));
    assert!(combined(&between, &delta).is_empty());
}

#[tokio::test]
async fn promise_2_a_release_is_not_told_by_a_list_that_is_dated_before_it() {
    let house = House::new().await;
    house.index.load(vec![(serial(1), revoked(Reason::CertificateHold, Time::default()))]);
    let mut publisher = house.publisher();
    house.reach_head();
    settle(&mut publisher).await;
    house.index.apply(&[(serial(1), good(at(10))), (serial(2), revoked(Reason::Superseded, at(10)))]);
    house.clock.set(at(10));
    house.index.vouch(at(5));
    settle(&mut publisher).await;
    let early = house.shelf.complete().unwrap();
    assert_eq!((early.this_update, listed(&early).len()), (at(5), 2), "the hold stays, the revocation is published");
    house.index.vouch(at(9));
    settle(&mut publisher).await;
    assert_eq!(house.shelf.complete().unwrap().number, early.number, "there is nothing to tell yet");
    house.index.vouch(at(10));
    settle(&mut publisher).await;
    assert_eq!(listed(&house.shelf.complete().unwrap()).into_keys().collect::<Vec<_>>(), [serial(2)]);
}

#[tokio::test]
async fn promise_7_an_entry_goes_only_after_a_regular_list_dated_after_its_end_carried_it() {
    let house = House::new().await;
    let mut publisher = house.publisher();
    house.reach_head();
    settle(&mut publisher).await;
    let ending = Record { not_after: at(HOUR), ..revoked(Reason::Superseded, at(1)) };
    house.index.apply(&[(serial(1), ending)]);
    let carries = |house: &House| listed(&house.shelf.complete().unwrap()).contains_key(&serial(1));
    for (seconds, other) in [(2, 10), (HOUR + 1, 11), (3 * HOUR, 12)] {
        house.index.apply(&[(serial(other), revoked(Reason::KeyCompromise, at(seconds)))]);
        house.advance(at(seconds));
        settle(&mut publisher).await;
        assert!(carries(&house), "builds between slots do not count (CRL-51): {seconds}");
    }
    house.advance(at(6 * HOUR));
    settle(&mut publisher).await;
    assert!(carries(&house), "this is the regular list that has to carry it");
    house.advance(at(12 * HOUR));
    settle(&mut publisher).await;
    assert!(!carries(&house));
    let delta = house.shelf.delta().unwrap();
    assert!(!words(&delta).contains_key(&serial(1)), "expiry is no removal");
    // Revoked long after its end: it still gets its regular list.
    let late = Record { not_after: at(-HOUR), ..revoked(Reason::KeyCompromise, at(12 * HOUR + 5)) };
    house.index.apply(&[(serial(2), late)]);
    for (hours, listed_then) in [(13, true), (18, true), (24, false)] {
        house.advance(at(hours * HOUR));
        settle(&mut publisher).await;
        assert_eq!(listed(&house.shelf.complete().unwrap()).contains_key(&serial(2)), listed_then, "{hours}");
    }
}

#[tokio::test]
async fn promise_3_next_update_ends_with_the_ca() {
    let house = House::new().await;
    let end = house.issuer.certificate.not_after();
    house.clock.set(end - Duration::from_secs(60));
    let mut publisher = house.publisher();
    house.reach_head();
    settle(&mut publisher).await;
    assert_eq!(house.shelf.complete().unwrap().next_update, end);
    house.advance(end);
    let error = publisher.step().await.unwrap_err();
    assert!(matches!(error, PublishError::Build(BuildError::CaEnded(_))), "{error}");
}

#[tokio::test]
async fn a_restart_without_news_serves_the_same_lists_and_numbers_go_on_after_one_with_news() {
    let mut house = House::new().await;
    let rows = [(serial(1), revoked(Reason::Superseded, at(0))), (serial(2), revoked(Reason::CertificateHold, at(0)))];
    house.index.load(rows.to_vec());
    let mut publisher = house.publisher();
    house.reach_head();
    settle(&mut publisher).await;
    let oldest = house.shelf.complete().unwrap();
    house.advance(at(1));
    settle(&mut publisher).await;
    let (complete, delta) = (house.shelf.complete().unwrap(), house.shelf.delta().unwrap());
    drop(publisher);

    house.restart(&rows, &rows).await;
    house.advance(at(100));
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    assert_eq!(*house.shelf.complete().unwrap(), *complete, "nothing differs, so nothing is built");
    assert_eq!(*house.shelf.delta().unwrap(), *delta);
    drop(publisher);

    // While it was down: a revocation, and a release that the feed finds out at start.
    let news = [rows[0], (serial(2), good(at(200))), (serial(3), revoked(Reason::KeyCompromise, at(200)))];
    house.clock.set(at(200));
    house.restart(&rows, &news).await;
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    let (newer, delta) = (house.shelf.complete().unwrap(), house.shelf.delta().unwrap());
    assert!(newer.number > complete.number);
    assert_eq!(listed(&newer).into_keys().collect::<BTreeSet<_>>(), BTreeSet::from([serial(1), serial(3)]));
    assert_eq!(base(&delta), oldest.number);
    for kept in [&oldest, &complete] {
        assert_eq!(combined(kept, &delta), listed(&newer));
    }
    assert_eq!(house.health().0, health::State::Ok);
}

#[tokio::test]
async fn a_release_that_was_recorded_before_a_crash_explains_the_missing_entry() {
    let mut house = House::new().await;
    let hold = revoked(Reason::CertificateHold, at(0));
    house.index.load(vec![(serial(1), hold)]);
    let mut publisher = house.publisher();
    house.reach_head();
    settle(&mut publisher).await;
    house.state.record(&house.issuer.name, &[(serial(1), None)]).await.unwrap();
    drop(publisher);
    house.clock.set(at(5));
    house.restart(&[], &[(serial(1), good(Time::default()))]).await;
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    assert!(listed(&house.shelf.complete().unwrap()).is_empty());
    assert_eq!(words(&house.shelf.delta().unwrap()), BTreeMap::from([(serial(1), Word::Removed(at(5)))]));
    assert_eq!(house.health().0, health::State::Ok);
}

#[tokio::test]
async fn promise_6_what_the_index_lost_stays_listed_and_raises_an_alarm_and_news_are_published() {
    let mut house = House::new().await;
    let rows = [(serial(1), revoked(Reason::Superseded, at(0))), (serial(2), revoked(Reason::CertificateHold, at(0)))];
    house.index.load(rows.to_vec());
    let mut publisher = house.publisher();
    house.reach_head();
    settle(&mut publisher).await;
    drop(publisher);
    // A restored backup, and a state store that lost its revocations: one row is gone, one is good again.
    house.clock.set(at(10));
    house.restart(&[], &[(serial(2), good(at(10))), (serial(3), revoked(Reason::KeyCompromise, at(10)))]).await;
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    let all = BTreeSet::from([serial(1), serial(2), serial(3)]);
    assert_eq!(listed(&house.shelf.complete().unwrap()).into_keys().collect::<BTreeSet<_>>(), all);
    let (state, reason) = house.health();
    assert_eq!(state, health::State::Degraded);
    assert!(reason.contains("2 revocations stay on the CRL"), "{reason}");
    // The database was put right.
    house.index.apply(&[rows[0], rows[1]]);
    house.advance(at(11));
    settle(&mut publisher).await;
    assert_eq!(listed(&house.shelf.complete().unwrap()).into_keys().collect::<BTreeSet<_>>(), all);
    // That the two are known again is seen at the next start at the latest.
    drop(publisher);
    house.restart(&rows, &[(serial(3), revoked(Reason::KeyCompromise, at(10)))]).await;
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    assert_eq!(house.health().0, health::State::Ok);
}

#[tokio::test]
async fn promise_6_an_entry_that_a_fault_of_ours_drops_is_put_back() {
    let house = House::new().await;
    house.index.load((0..2_000).map(|n| (serial(n), revoked(Reason::Superseded, at(0)))).collect());
    let mut publisher = house.publisher();
    house.reach_head();
    settle(&mut publisher).await;
    let before = listed(&house.shelf.complete().unwrap());
    let ledger = Arc::make_mut(&mut publisher.ledger);
    let lost = [serial(5), serial(1_700)].into_iter().collect::<BTreeSet<_>>();
    ledger.entries.apply(&lost.iter().map(|serial| (*serial, entries::Edit::Drop)).collect::<Vec<_>>());
    house.index.apply(&[(serial(9_999), revoked(Reason::KeyCompromise, at(1)))]);
    house.advance(at(1));
    settle(&mut publisher).await;
    let after = listed(&house.shelf.complete().unwrap());
    assert_eq!(after.len(), before.len() + 1);
    assert!(before.keys().all(|serial| after.contains_key(serial)));
    let (state, reason) = house.health();
    assert_eq!(state, health::State::Degraded, "{reason}");
}

#[tokio::test]
async fn promise_5_a_crash_after_any_step_leaves_a_state_that_goes_on() {
    let mut house = House::new().await;
    let mut rows = vec![(serial(0), revoked(Reason::Superseded, at(0)))];
    house.index.load(rows.clone());
    house.reach_head();
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    house.advance(at(1));
    settle(&mut publisher).await;
    for (round, steps) in (1..).zip([1, 2, 3, 3, 2, 1]) {
        let before = house.shelf.complete().unwrap();
        let now = at(10 * round);
        rows.push((serial(round as u64), revoked(Reason::KeyCompromise, now)));
        house.index.apply(&rows);
        house.advance(now);
        publisher.situation();
        // The steps of promise 5, and then nothing more.
        let number = publisher.reserve().await.unwrap();
        if steps > 1 {
            let (_, _, revision) = publisher.build(now, Occasion::Change, number).await.unwrap();
            if steps > 2 {
                house.state.commit(&publisher.scope, &revision).await.unwrap();
            }
        }
        drop(publisher);
        house.restart(&rows, &rows).await;
        publisher = house.publisher();
        publisher.reopen().await.unwrap();
        let served = house.shelf.complete().unwrap();
        assert_eq!(served.number, if steps > 2 { number } else { before.number }, "after {steps} steps");
        house.advance(now + Duration::from_secs(1));
        settle(&mut publisher).await;
        let after = house.shelf.complete().unwrap();
        assert!(if steps > 2 { after.number == number } else { after.number > number }, "a gap, never a reuse");
        assert_eq!(listed(&after).len(), rows.len());
        assert_eq!(combined(&before, &house.shelf.delta().unwrap()), listed(&after));
    }
}

#[tokio::test]
async fn promise_8_a_list_that_cannot_be_written_changes_nothing_and_is_made_later() {
    let house = House::new().await;
    let mut publisher = house.publisher();
    house.reach_head();
    settle(&mut publisher).await;
    let before = house.shelf.complete().unwrap();
    house.sql("CREATE TRIGGER full BEFORE INSERT ON bodies BEGIN SELECT RAISE(ABORT, 'the disk is full'); END").await;
    house.index.apply(&[(serial(1), revoked(Reason::KeyCompromise, at(1)))]);
    house.advance(at(1));
    let error = publisher.step().await.unwrap_err();
    assert!(error.to_string().contains("the disk is full"), "{error}");
    publisher.failure = Some(error.to_string());
    publisher.report();
    assert_eq!(house.health().0, health::State::Degraded);
    assert_eq!(*house.shelf.complete().unwrap(), *before, "the old list stays (CRL-94)");
    // CRL-94: red while there is half of its validity left to mend it.
    house.advance(at(24 * HOUR + 1));
    publisher.report();
    assert_eq!(house.health().0, health::State::Failed);
    house.sql("DROP TRIGGER full").await;
    settle(&mut publisher).await;
    assert_eq!(listed(&house.shelf.complete().unwrap()).len(), 1);
}

#[tokio::test]
async fn promise_2_without_the_database_no_list_is_made_and_health_says_so() {
    let house = House::new().await;
    let mut publisher = house.publisher();
    house.reach_head();
    settle(&mut publisher).await;
    house.advance(at(30));
    settle(&mut publisher).await;
    let last = house.shelf.complete().unwrap();
    house.clock.set(at(6 * HOUR + 5));
    house.index.vouch(at(40));
    settle(&mut publisher).await;
    assert_eq!(house.shelf.complete().unwrap().number, last.number);
    let (state, reason) = house.health();
    assert_eq!(state, health::State::Degraded);
    assert!(reason.contains("out of reach since 2026-11-22T06:00:40Z"), "{reason}");
    house.advance(at(6 * HOUR + 6));
    settle(&mut publisher).await;
    assert_eq!(house.shelf.complete().unwrap().this_update, at(6 * HOUR + 6));
    assert_eq!(house.health().0, health::State::Ok);
    house.clock.set(at(0));
    settle(&mut publisher).await;
    assert!(house.health().1.contains("the clock says"), "{:?}", house.health());
}

#[tokio::test]
async fn a_lost_list_of_the_window_moves_the_base_and_a_lost_last_list_starts_afresh() {
    let mut house = House::new().await;
    let rows = [(serial(1), revoked(Reason::Superseded, at(0)))];
    house.index.load(rows.to_vec());
    let mut publisher = house.publisher();
    house.reach_head();
    for seconds in 0..3 {
        house.index.apply(&[(serial(10 + seconds as u64), revoked(Reason::Superseded, at(seconds)))]);
        house.advance(at(seconds));
        settle(&mut publisher).await;
    }
    let mut now: Vec<_> = rows.to_vec();
    now.extend((0..3).map(|n| (serial(10 + n as u64), revoked(Reason::Superseded, at(n)))));
    let lists = house.state.lists(&publisher.scope).await.unwrap();
    drop(publisher);
    house.state.lose(&house.scope(), &[lists[0].number]).await.unwrap();
    house.clock.set(at(10));
    now.push((serial(20), revoked(Reason::KeyCompromise, at(10))));
    house.restart(&now, &now).await;
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    assert_eq!(base(&house.shelf.delta().unwrap()), lists[1].number);
    assert!(house.shelf.numbered(lists[0].number).await.is_none());

    let last = house.shelf.complete().unwrap();
    drop(publisher);
    house.sql("UPDATE chunks SET der = x'00' WHERE until IS NULL").await;
    house.clock.set(at(20));
    house.restart(&now, &now).await;
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    let fresh = house.shelf.complete().unwrap();
    assert!(fresh.number > last.number && house.shelf.delta().is_none());
    assert_eq!(listed(&fresh).len(), now.len());
    house.advance(at(21));
    settle(&mut publisher).await;
    assert_eq!(base(&house.shelf.delta().unwrap()), fresh.number);
}

#[tokio::test]
async fn history_bytes_bound_the_window() {
    let mut house = House::new().await;
    house.config.history_bytes = 5_000;
    house.index.load((0..20).map(|n| (serial(n), revoked(Reason::Superseded, at(0)))).collect());
    let mut publisher = house.publisher();
    house.reach_head();
    for seconds in 0..8 {
        house.index.apply(&[(serial(100 + seconds as u64), revoked(Reason::Superseded, at(seconds)))]);
        house.advance(at(seconds));
        settle(&mut publisher).await;
        if let Some(delta) = house.shelf.delta() {
            let base = house.shelf.numbered(base(&delta)).await.unwrap();
            assert_eq!(combined(&base, &delta), listed(&house.shelf.complete().unwrap()));
        }
    }
    let rows = house.state.lists(&publisher.scope).await.unwrap();
    let (last, older) = rows
        .iter()
        .filter(|row| row.base.is_none())
        .collect::<Vec<_>>()
        .split_last()
        .map(|(l, o)| (*l, o.to_vec()))
        .unwrap();
    assert!(older.len() > 1 && older.iter().map(|row| row.bytes).sum::<u64>() <= 5_000, "{older:?}");
    assert_eq!(base(&house.shelf.delta().unwrap()), older[0].number);
    assert_eq!(last.number, house.shelf.complete().unwrap().number);
}

#[tokio::test]
async fn a_ca_that_may_not_sign_crls_is_refused() {
    let house = House::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let certificate = Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap();
    let parts = Parts {
        issuer: Issuer { certificate, ..house.issuer.clone() },
        signer: Arc::clone(&house.signer),
        share: Share::whole(Arc::clone(&house.index)),
        state: house.state.clone(),
        clock: Arc::new(ClockGuard::new(Arc::new(SystemClock))),
        shelf: Arc::clone(&house.shelf),
        outlets: Vec::new(),
        health: house.health.clone(),
        metrics: Metrics::new(),
    };
    assert!(matches!(Publisher::new(house.config.clone(), parts), Err(PublishError::KeyUsage(_))));
}

#[tokio::test]
async fn a_running_publisher_folds_a_burst_and_stops_at_once() {
    let house = House::new().await;
    let clock = Arc::new(SystemClock);
    let parts = Parts {
        issuer: house.issuer.clone(),
        signer: Arc::clone(&house.signer),
        share: Share::whole(Arc::clone(&house.index)),
        state: house.state.clone(),
        clock: Arc::new(ClockGuard::new(Arc::clone(&clock) as Arc<dyn Clock>)),
        shelf: Arc::clone(&house.shelf),
        outlets: Vec::new(),
        health: house.health.clone(),
        metrics: Metrics::new(),
    };
    let publisher = Publisher::new(PublisherConfig::default(), parts).unwrap();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(publisher.run(stopped));
    let index = Arc::clone(&house.index);
    let feed = tokio::spawn(async move {
        loop {
            index.vouch(clock.now());
            index.set_complete();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let now = SystemClock.now();
    let ending = Record { not_after: now + Duration::from_secs(86_400), ..revoked(Reason::Superseded, now) };
    for batch in 0..10 {
        house.index.apply(&(0..1_000).map(|n| (serial(batch * 1_000 + n), ending)).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut numbers, begun) = (BTreeSet::new(), Instant::now());
    loop {
        let complete = house.shelf.complete();
        numbers.extend(complete.as_ref().map(|list| list.number));
        if complete.is_some_and(|list| listed(&list).len() == 10_000) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(numbers.len() <= 4, "a handful of lists, not 10,000: {numbers:?}");
    let asked = Instant::now();
    house.index.apply(&[(serial(20_000), ending)]);
    stop.send(true).unwrap();
    running.await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1));
    feed.abort();
}

/// What the model knows of one certificate.
#[derive(Clone, Copy, Debug)]
struct Life {
    record: Record,
    /// When a hold was last lifted.
    released: Option<Time>,
}

/// One committed revision, as the model computed it from scratch.
struct Past {
    this_update: Time,
    regular: bool,
}

struct Model {
    random: Box<dyn FnMut(u64) -> u64>,
    lives: BTreeMap<Serial, Life>,
    /// Of each scope.
    pasts: Vec<BTreeMap<u64, Past>>,
}

/// One publisher of several, with what it publishes.
struct Desk {
    publisher: Publisher,
    shelf: Arc<Shelf>,
    ours: Box<dyn Fn(&Serial) -> bool + Send>,
}

/// A publisher for each part, and one for the whole.
fn desks(house: &House, division: Division) -> Vec<Desk> {
    // Of every third nobody says which kind it is.
    house.index.keep_shards();
    let kinds: Vec<_> = (0..60).filter(|n| n % 3 > 0).map(|n| (serial(n), u32::try_from(n % 3 - 1).unwrap())).collect();
    if division == Division::Kinds {
        assert!(house.index.assign(&kinds).is_empty());
    }
    let shares = Share::divided(Arc::clone(&house.index), division, true);
    let desk = |share: Share| {
        let shelf = if share.part() == Part::Whole { Arc::clone(&house.shelf) } else { Arc::new(Shelf::new()) };
        let ours = Box::new(share.filter());
        Desk { publisher: house.publisher_of(share, &shelf), shelf, ours }
    };
    shares.into_iter().map(desk).collect()
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut state = seed;
        let random = Box::new(move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        });
        Self { random, lives: BTreeMap::new(), pasts: Vec::new() }
    }

    /// A few certificates change; returns them with what the state store is told.
    fn change(&mut self, now: Time) -> Vec<(Serial, Record)> {
        let mut batch = Vec::new();
        for _ in 0..(self.random)(6) {
            let serial = serial((self.random)(60));
            let end = now + Duration::from_secs((self.random)(90_000));
            let life = self
                .lives
                .entry(serial)
                .or_insert_with(|| Life { record: Record { not_after: end, ..good(now) }, released: None });
            let dice = (self.random)(10);
            let reason = Reason::ALL[(self.random)(9) as usize];
            let status = match life.record.status {
                Status::Good if dice < 4 => Status::Revoked(because(Reason::CertificateHold, now)),
                Status::Good => Status::Revoked(Revocation {
                    at: now,
                    reason,
                    invalidity_date: (dice > 7).then(|| now - Duration::from_secs(99)),
                }),
                Status::Revoked(held) if life.record.status.is_hold() && dice < 3 => {
                    Status::Revoked(Revocation { reason: Reason::KeyCompromise, ..held })
                }
                Status::Revoked(_) if life.record.status.is_hold() => {
                    life.released = Some(now);
                    Status::Good
                }
                // Final, but for another reason now and then, which may not be a hold.
                Status::Revoked(held) if dice == 0 && reason != Reason::CertificateHold => {
                    Status::Revoked(Revocation { reason, ..held })
                }
                Status::Revoked(_) => continue,
            };
            if status != life.record.status {
                life.record = Record { status, since: now, ..life.record };
                batch.push((serial, life.record));
            }
        }
        batch
    }

    fn expected(&self, scope: usize, desk: &Desk, number: u64) -> BTreeMap<Serial, Revocation> {
        let carried = |record: &Record| {
            let end = record.not_after.max(record.since);
            self.pasts[scope].range(..number).any(|(_, past)| past.regular && past.this_update > end)
        };
        let listed = |(serial, life): (&Serial, &Life)| match life.record.status {
            Status::Revoked(revocation) if !carried(&life.record) && (desk.ours)(serial) => Some((*serial, revocation)),
            _ => None,
        };
        self.lives.iter().filter_map(listed).collect()
    }

    fn records(&self) -> Vec<(Serial, Record)> {
        self.lives.iter().map(|(serial, life)| (*serial, life.record)).collect()
    }

    /// Holds both lists of a scope against what they must say.
    async fn check(&mut self, scope: usize, desk: &Desk) {
        let Some(complete) = desk.shelf.complete() else { return };
        let now = complete.this_update;
        self.pasts.resize_with(self.pasts.len().max(scope + 1), BTreeMap::new);
        let past = &mut self.pasts[scope];
        if !past.contains_key(&complete.number) {
            if let Some((number, last)) = past.last_key_value() {
                assert!(complete.number > *number && complete.this_update > last.this_update);
            }
            let slot = now.unix() - now.unix() % (6 * HOUR);
            let last_regular = past.values().rev().find(|past| past.regular).map(|past| past.this_update.unix());
            let regular = last_regular.is_none_or(|last| last < slot);
            past.insert(complete.number, Past { this_update: now, regular });
        }
        let says = listed(&complete);
        assert_eq!(says, self.expected(scope, desk, complete.number), "complete list {} of {scope}", complete.number);
        let Some(delta) = desk.shelf.delta() else { return };
        let identity = |list: &Published| List::read(&list.bytes).unwrap().distribution.map(str::to_owned);
        assert_eq!(identity(&delta), identity(&complete), "CRL-60");
        assert_eq!((delta.number, delta.this_update), (complete.number, complete.this_update));
        let base = base(&delta);
        let mut over = 0;
        for (number, past) in self.pasts[scope].range(base..complete.number) {
            let Some(old) = desk.shelf.numbered(*number).await else {
                panic!("{number} is in the window of {base} and not served");
            };
            over += 1;
            let mut all = combined(&old, &delta);
            // What a client keeps of certificates that are over does no harm, and it is no removal.
            all.retain(|serial, _| {
                let gone = !says.contains_key(serial);
                let life = &self.lives[serial];
                !(gone && life.record.status != Status::Good && life.record.not_after < now)
            });
            assert_eq!(all, says, "delta {} over {number} of {}", delta.number, past.this_update);
        }
        assert!(over > 0, "the base is older");
        let since = self.pasts[scope][&base].this_update;
        for (serial, word) in words(&delta) {
            let life = self.lives[&serial];
            assert_eq!(matches!(word, Word::Removed(_)), life.record.status == Status::Good);
            assert!(life.record.since > since, "the delta tells only what is newer than its base");
        }
        for (serial, life) in &self.lives {
            let released = life.record.status == Status::Good && life.released.is_some_and(|at| at > since);
            if released && (desk.ours)(serial) {
                assert!(words(&delta).contains_key(serial), "{serial} was released since the base");
            }
        }
    }
}

#[tokio::test]
async fn any_sequence_of_changes_builds_and_restarts_says_what_a_model_says() {
    follow_a_model(Division::Shards(std::num::NonZeroU32::new(3).unwrap())).await;
}

#[tokio::test]
async fn crl_76_any_sequence_of_changes_in_lists_by_kind_says_what_a_model_says() {
    follow_a_model(Division::Kinds).await;
}

async fn follow_a_model(division: Division) {
    let long = std::env::var_os("JARCHY_LONG").is_some();
    for seed in 20_261_122..if long { 20_261_142 } else { 20_261_123 } {
        println!("seed {seed}");
        let mut model = Model::new(seed);
        let mut house = House::new().await;
        house.config.delta_window = Duration::from_secs(30_000);
        house.reach_head();
        let mut desks = desks(&house, division);
        let mut now = at(0);
        for _ in 0..if long { 1_000 } else { 200 } {
            now = now + Duration::from_secs(1 + [2, 600, 9_000][(model.random)(3) as usize] * (model.random)(4));
            let before = model.lives.clone();
            let batch = model.change(now);
            let record = |(serial, record): &(Serial, Record)| {
                let seen = match record.status {
                    Status::Good => None,
                    Status::Revoked(revocation) => Some(Seen {
                        not_before: record.not_before,
                        not_after: record.not_after,
                        revocation,
                        learned: record.since,
                    }),
                };
                (*serial, seen)
            };
            let told: Vec<_> = batch.iter().map(record).collect();
            house.clock.set(now);
            if (model.random)(12) == 0 {
                // The changes happen while nothing runs here: a hold that comes and goes is seen by nobody.
                for (serial, life) in &mut model.lives {
                    let was = before.get(serial).filter(|was| was.record.status == Status::Good);
                    if life.record.status == Status::Good && (was.is_some() || !before.contains_key(serial)) {
                        life.released = was.and_then(|was| was.released);
                    }
                }
                let known = house.state.revocations(&house.issuer.name).await.unwrap();
                let known = known.into_iter().map(|(serial, seen)| {
                    (
                        serial,
                        Record {
                            not_before: seen.not_before,
                            not_after: seen.not_after,
                            status: Status::Revoked(seen.revocation),
                            since: seen.learned,
                            sha256: None,
                        },
                    )
                });
                let known: Vec<_> = known.collect();
                drop(desks);
                house.restart(&known, &model.records()).await;
                house.state.record(&house.issuer.name, &told).await.unwrap();
                desks = self::desks(&house, division);
            } else {
                house.state.record(&house.issuer.name, &told).await.unwrap();
                house.index.apply(&batch);
                house.index.vouch(now);
            }
            let mut union = BTreeSet::new();
            let whole = desks.len() - 1;
            for (scope, desk) in desks.iter_mut().enumerate() {
                settle(&mut desk.publisher).await;
                assert!(desk.publisher.kept.is_empty());
                model.check(scope, desk).await;
                let complete = desk.shelf.complete().map_or_else(BTreeMap::new, |list| listed(&list));
                if scope == whole {
                    assert!(complete.keys().all(|serial| union.contains(serial)), "CRL-73");
                }
                union.extend(complete.into_keys());
            }
        }
        assert!(model.pasts.last().unwrap().len() > 100 && model.pasts[0].len() > 50);
    }
}
