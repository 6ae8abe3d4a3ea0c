//! What the store keeps, gives out once, and forgets.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use super::*;
use crate::pki::{Reason, Revocation, hash::sha256};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::Instant;

const NOW: i64 = 1_795_327_200;

fn serial(n: u64) -> Serial {
    Serial::from_magnitude(&n.to_be_bytes()).unwrap()
}

fn seen(reason: Reason) -> Seen {
    let at = Time::from_unix(NOW);
    Seen {
        not_before: Time::from_unix(NOW - 1_000),
        not_after: Time::from_unix(NOW + 1_000),
        revocation: Revocation { at, reason, invalidity_date: Some(Time::from_unix(NOW - 9)) },
        learned: Time::from_unix(NOW + 1),
    }
}

/// A list whose only entry is its own number; the delta of the same number differs from it.
fn list(number: u64, base: Option<u64>) -> NewList {
    let head = Bytes::from(format!("{number} {base:?} "));
    let entry = if base.is_some() { Bytes::new() } else { entry(number) };
    let tail = if base.is_some() { Bytes::new() } else { Bytes::from(" end") };
    let whole = [&head[..], &entry, &tail].concat();
    let this_update = Time::from_unix(NOW + i64::try_from(number).unwrap());
    let row = ListRow {
        number,
        base,
        this_update,
        next_update: Time::MAX,
        regular: true,
        sha256: sha256(&whole),
        bytes: whole.len() as u64,
        entries: 1,
        added: 9,
    };
    NewList { row, head, tail }
}

fn row(number: u64, base: Option<u64>) -> ListRow {
    list(number, base).row
}

fn entry(number: u64) -> Bytes {
    Bytes::from(format!("entry {number}"))
}

fn revision(number: u64, oldest: u64) -> Revision {
    let change = JournalRow { serial: serial(number), number, released_at: None };
    let delta = (oldest < number).then(|| list(number, Some(oldest)));
    let lists = std::iter::once(list(number, None)).chain(delta).collect();
    let chunk = NewChunk { place: vec![1], sha256: sha256(&entry(number)), der: entry(number) };
    let gone = vec![sha256(&entry(number - 1))];
    let turnover = Turnover { afresh: false, gone, new: vec![chunk] };
    Revision { number, lists, turnover, changes: vec![change], oldest, keep: Keep::Window, pruned: None }
}

struct Store {
    dir: tempfile::TempDir,
    issuer: IssuerName,
    scope: Scope,
}

impl Store {
    fn new() -> Self {
        let issuer: IssuerName = "demo".parse().unwrap();
        Self { dir: tempfile::tempdir().unwrap(), scope: Scope::whole(&issuer), issuer }
    }

    async fn open(&self) -> State {
        State::open(&self.dir.path().join("jarchy-state.db")).await.unwrap()
    }
}

#[tokio::test]
async fn promise_12_revocations_outlive_a_restart_and_go_only_by_release() {
    let store = Store::new();
    let state = store.open().await;
    let hold = seen(Reason::CertificateHold);
    state.record(&store.issuer, &[(serial(1), Some(hold)), (serial(2), Some(seen(Reason::Superseded)))]).await.unwrap();
    state.record(&store.issuer, &[(serial(1), None), (serial(3), Some(hold)), (serial(3), None)]).await.unwrap();
    state.record(&"other".parse().unwrap(), &[(serial(9), Some(hold))]).await.unwrap();
    state.close().await;

    let state = store.open().await;
    let all = state.revocations(&store.issuer).await.unwrap();
    assert_eq!(all, [(serial(2), seen(Reason::Superseded))]);
    assert_eq!(state.released(&store.issuer).await.unwrap(), BTreeSet::from([serial(1), serial(3)]));
    // On hold again: the old release explains nothing any more.
    state.record(&store.issuer, &[(serial(1), Some(hold))]).await.unwrap();
    assert_eq!(state.released(&store.issuer).await.unwrap(), BTreeSet::from([serial(3)]));
    assert_eq!(state.revocations(&store.issuer).await.unwrap().len(), 2);
}

#[tokio::test]
async fn promise_5_numbers_never_come_twice() {
    let store = Store::new();
    let state = store.open().await;
    state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
    assert_eq!(state.reserve(&store.scope, 1_000).await.unwrap(), 1_000);
    assert_eq!(state.reserve(&store.scope, 1_000).await.unwrap(), 1_001);
    assert_eq!(state.reserve(&store.scope, 5).await.unwrap(), 1_002, "the clock went back");
    state.close().await;
    let state = store.open().await;
    assert_eq!(state.reserve(&store.scope, 5).await.unwrap(), 1_003);
}

#[tokio::test]
async fn a_scope_belongs_to_one_ca() {
    let store = Store::new();
    let state = store.open().await;
    state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
    state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
    let error = state.begin_scope(&store.scope, &[2; 32]).await.unwrap_err();
    assert!(error.to_string().contains("another CA"), "{error}");
}

#[tokio::test]
async fn a_commit_names_lists_and_lets_older_ones_go() {
    let store = Store::new();
    let state = store.open().await;
    state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
    for (number, oldest) in [(10, 10), (11, 10), (12, 10)] {
        state.reserve(&store.scope, number).await.unwrap();
        state.commit(&store.scope, &revision(number, oldest)).await.unwrap();
    }
    let lists: Vec<_> = state.lists(&store.scope).await.unwrap().iter().map(|l| (l.number, l.base)).collect();
    assert_eq!(lists, [(10, None), (11, None), (12, None), (12, Some(10))]);
    state.reserve(&store.scope, 13).await.unwrap();
    state.commit(&store.scope, &revision(13, 12)).await.unwrap();
    let kept: Vec<_> = state.history(&store.scope).await.unwrap().iter().map(|(l, kept)| (l.number, *kept)).collect();
    let expected = [(10, false), (11, false), (11, false), (12, true), (12, false), (13, true), (13, true)];
    assert_eq!(kept, expected, "numbers and hashes stay for ever");
    for (row, kept) in state.history(&store.scope).await.unwrap() {
        let bytes = state.list_bytes(&store.scope, &row).await.unwrap();
        assert_eq!(bytes.is_some(), kept, "{row:?}");
    }
    let journal: Vec<u64> = state.journal(&store.scope).await.unwrap().iter().map(|row| row.number).collect();
    assert_eq!(journal, [13], "what the base tells needs no journal");
    assert_eq!(state.last(&store.scope, Slot::Regular).await.unwrap(), Some(row(13, None)));
}

#[tokio::test]
async fn promise_5_whoever_was_overtaken_commits_nothing() {
    let store = Store::new();
    let (one, two) = (store.open().await, store.open().await);
    one.begin_scope(&store.scope, &[1; 32]).await.unwrap();
    let mine = one.reserve(&store.scope, 10).await.unwrap();
    let theirs = two.reserve(&store.scope, 10).await.unwrap();
    let late = one.commit(&store.scope, &revision(mine, mine)).await.unwrap_err();
    assert!(matches!(late, StateError::Overtaken { .. }), "{late}");
    assert!(two.lists(&store.scope).await.unwrap().is_empty());
    two.commit(&store.scope, &revision(theirs, theirs)).await.unwrap();
    let again = two.commit(&store.scope, &revision(theirs, theirs)).await.unwrap_err();
    assert!(matches!(again, StateError::Overtaken { .. }), "{again}");
}

#[tokio::test]
async fn a_second_publisher_is_refused_and_told_by_whom() {
    let store = Store::new();
    let one = store.open().await;
    one.claim().await.unwrap();
    one.claim().await.unwrap();
    let two = store.open().await;
    let refused = two.claim().await.unwrap_err();
    assert!(matches!(refused, StateError::Claimed { .. }), "{refused}");
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    two.record(&store.issuer, &[(serial(1), Some(seen(Reason::Superseded)))]).await.unwrap();
    drop(one);
    two.claim().await.unwrap();
}

#[tokio::test]
async fn crl_95_every_list_comes_back_by_number_and_by_time() {
    let store = Store::new();
    let state = store.open().await;
    state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
    for number in 10..20 {
        state.reserve(&store.scope, number).await.unwrap();
        let keep = if number < 15 { Keep::All } else { Keep::Since(Time::from_unix(NOW + 12)) };
        state.commit(&store.scope, &Revision { keep, ..revision(number, number.max(11) - 1) }).await.unwrap();
    }
    for number in 10..20 {
        let row = state.list_numbered(&store.scope, number, Form::Complete).await.unwrap().unwrap();
        assert_eq!(state.list_at(&store.scope, row.this_update, Form::Complete).await.unwrap(), Some(row.clone()));
        let bytes = state.list_bytes(&store.scope, &row).await.unwrap();
        let expected = format!("{number} None entry {number} end");
        assert_eq!(bytes, (number >= 12).then(|| expected.into_bytes()), "{number}");
        if number > 12 {
            let delta = state.list_numbered(&store.scope, number, Form::Delta).await.unwrap().unwrap();
            assert!(state.list_bytes(&store.scope, &delta).await.unwrap().is_some());
        }
    }
    assert_eq!(state.list_at(&store.scope, Time::from_unix(NOW), Form::Complete).await.unwrap(), None);
    let late = state.list_at(&store.scope, Time::MAX, Form::Complete).await.unwrap().unwrap();
    assert_eq!(late.number, 19);
}

#[tokio::test]
async fn a_list_that_is_not_what_was_published_is_not_given_out() {
    let store = Store::new();
    let state = store.open().await;
    state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
    state.reserve(&store.scope, 10).await.unwrap();
    state.commit(&store.scope, &revision(10, 10)).await.unwrap();
    sqlx::query("UPDATE chunks SET der = x'00'").execute(&state.0.pool).await.unwrap();
    let error = state.list_bytes(&store.scope, &row(10, None)).await.unwrap_err();
    assert!(error.to_string().contains("not what was published"), "{error}");
}

#[tokio::test]
async fn crl_70_a_division_into_shards_is_for_ever() {
    let store = Store::new();
    let state = store.open().await;
    state.divide(&store.issuer, 0, "hash").await.unwrap();
    state.divide(&store.issuer, 16, "hash").await.unwrap();
    state.divide(&store.issuer, 16, "hash").await.unwrap();
    for (shards, rule) in [(17, "hash"), (16, "database"), (0, "hash")] {
        let error = state.divide(&store.issuer, shards, rule).await.unwrap_err().to_string();
        assert!(error.contains("16 shards by hash"), "{error}");
    }
}

#[tokio::test]
async fn promise_5_and_13_operators_words_are_written_down() {
    let store = Store::new();
    let state = store.open().await;
    state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
    let now = Time::from_unix(NOW);
    state.adopt(&store.scope, 5_000, "anna", now).await.unwrap();
    assert_eq!(state.reserve(&store.scope, 7).await.unwrap(), 5_001);
    state.commit(&store.scope, &revision(5_001, 5_001)).await.unwrap();
    assert_eq!(state.supersede(&store.scope, "anna", now).await.unwrap(), 1);
    assert_eq!(state.last(&store.scope, Slot::Any).await.unwrap(), None);
    assert!(state.lists(&store.scope).await.unwrap().is_empty());
    assert_eq!(state.latest().await.unwrap(), None);
    assert_eq!(state.reserve(&store.scope, 7).await.unwrap(), 5_002, "its number stays used");
    let doubt = Doubt { seen: now, expected: now + std::time::Duration::from_secs(99) };
    state.set_clock_doubt(Some(doubt)).await.unwrap();
    assert_eq!(state.clock_doubt().await.unwrap(), Some(doubt));
    assert!(state.confirm_clock("boris", now).await.unwrap());
    assert_eq!(state.clock_doubt().await.unwrap(), None);
    let actors: Vec<_> = state.decisions().await.unwrap().into_iter().map(|(_, actor, _)| actor).collect();
    assert_eq!(actors, ["anna", "anna", "boris"]);
}

#[tokio::test]
async fn many_revocations_are_recorded_in_one_go() {
    let count = if std::env::var_os("JARCHY_LONG").is_some() { 1_000_000 } else { 20_123 };
    let store = Store::new();
    let state = store.open().await;
    let batch: Vec<_> = (0..count)
        .map(|n: u64| (serial(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), Some(seen(Reason::Superseded))))
        .collect();
    let begun = Instant::now();
    state.record(&store.issuer, &batch).await.unwrap();
    let recorded = begun.elapsed();
    let all = state.revocations(&store.issuer).await.unwrap();
    println!("{count} revocations: recorded in {recorded:?}, read in {:?}", begun.elapsed() - recorded);
    let mut serials: Vec<Serial> = all.iter().map(|(serial, _)| *serial).collect();
    serials.sort_unstable();
    serials.dedup();
    assert_eq!(serials.len() as u64, count);
    assert!(all.iter().all(|(_, stored)| *stored == seen(Reason::Superseded)));
}
