//! Shards, what is kept for how long, the last list, and what stops publication.

use super::*;
use crate::state::{Doubt, Form};
use std::num::NonZeroU32;

fn read(list: &Published) -> List<'_> {
    List::read(&list.bytes).unwrap()
}

#[tokio::test]
async fn crl_71_73_74_every_shard_is_published_empty_ones_too_under_the_url_that_certificates_carry() {
    let mut house = House::new().await;
    house.config.deltas = false;
    house.index.load((0..4).map(|n| (serial(n), revoked(Reason::Superseded, at(0)))).collect());
    house.reach_head();
    let mut numbers = BTreeMap::new();
    let mut union = BTreeSet::new();
    let mut desks: Vec<_> =
        Share::divided(Arc::clone(&house.index), Division::Shards(NonZeroU32::new(8).unwrap()), false)
            .into_iter()
            .map(|share| {
                let shelf = Arc::new(Shelf::new());
                (share.part(), house.publisher_of(share, &shelf), shelf)
            })
            .collect();
    for (part, publisher, shelf) in &mut desks {
        settle(publisher).await;
        let Part::Shard(n) = *part else { panic!() };
        let complete = shelf.complete().unwrap();
        let url = format!("http://crl.example/crl/demo/shard-{n}.crl");
        assert_eq!(read(&complete).distribution, Some(&*url));
        assert_eq!((read(&complete).freshest, shelf.delta()), (None, None));
        let shard = |serial: &Serial| shard_of(serial, NonZeroU32::new(8).unwrap());
        assert!(listed(&complete).keys().all(|serial| shard(serial) == n));
        union.extend(listed(&complete).into_keys());
        numbers.insert(*part == Part::Shard(0), complete.number);
        let text = openssl_crl(house.dir.path(), &complete);
        assert!(text.contains("X509v3 Issuing Distribution Point: critical") && text.contains(&url), "{text}");
    }
    assert_eq!(union.len(), 4);
    assert!(desks.iter().any(|(.., shelf)| listed(&shelf.complete().unwrap()).is_empty()), "one is empty");
    // A change makes one new list, of its shard.
    let before: Vec<_> = desks.iter().map(|(.., shelf)| shelf.complete().unwrap().number).collect();
    house.index.apply(&[(serial(77), revoked(Reason::KeyCompromise, at(5)))]);
    house.advance(at(5));
    let mut changed = Vec::new();
    for ((part, publisher, shelf), before) in desks.iter_mut().zip(before) {
        settle(publisher).await;
        if shelf.complete().unwrap().number != before {
            changed.push(*part);
        }
    }
    assert_eq!(changed, [Part::Shard(shard_of(&serial(77), NonZeroU32::new(8).unwrap()))]);
}

#[tokio::test]
async fn crl_76_lists_by_kind_say_so_and_what_becomes_known_later_loses_nothing() {
    let mut house = House::new().await;
    house.config.deltas = false;
    house.config.part_url = KIND_URL.to_owned();
    let rows: Vec<_> = (0..3).map(|n| (serial(n), revoked(Reason::CertificateHold, at(0)))).collect();
    let kinds = [(serial(0), 0), (serial(1), 1)];
    let open = |house: &House, kinds: &[(Serial, u32)]| {
        house.index.keep_shards();
        assert!(house.index.assign(kinds).is_empty());
        let shares = Share::divided(Arc::clone(&house.index), Division::Kinds, false);
        let desk = |share: Share| {
            let shelf = Arc::new(Shelf::new());
            (house.publisher_of(share, &shelf), shelf)
        };
        shares.into_iter().map(desk).collect::<Vec<_>>()
    };
    let mut desks = open(&house, &kinds);
    house.index.load(rows.clone());
    house.reach_head();
    for ((publisher, shelf), (kind, only)) in desks.iter_mut().zip([(Kind::User, serial(0)), (Kind::Ca, serial(1))]) {
        settle(publisher).await;
        let complete = shelf.complete().unwrap();
        let url = format!("http://crl.example/crl/demo/{kind}.crl");
        assert_eq!((read(&complete).distribution, read(&complete).only), (Some(&*url), Some(kind)));
        assert_eq!(listed(&complete).into_keys().collect::<Vec<_>>(), [only, serial(2)], "nobody says what 2 is");
        let text = openssl_crl(house.dir.path(), &complete);
        let flag = if kind == Kind::User { "Only User Certificates" } else { "Only CA Certificates" };
        let name = "X509v3 Issuing Distribution Point: critical";
        assert!(text.contains(name) && text.contains(&url) && text.contains(flag), "{text}");
    }
    // It becomes known while nothing runs here, and is told of in both lists as long as it stands there.
    drop(desks);
    house.restart(&rows, &rows).await;
    let mut desks = open(&house, &[kinds[0], kinds[1], (serial(2), 0)]);
    for (publisher, shelf) in &mut desks {
        settle(publisher).await;
        assert_eq!((listed(&shelf.complete().unwrap()).len(), publisher.kept.len()), (2, 0));
    }
    house.advance(at(5));
    house.index.apply(&[(serial(2), good(at(5)))]);
    for (publisher, shelf) in &mut desks {
        settle(publisher).await;
        assert_eq!(listed(&shelf.complete().unwrap()).len(), 1);
    }
    house.advance(at(9));
    house.index.apply(&[(serial(2), revoked(Reason::KeyCompromise, at(9)))]);
    let mut counts = Vec::new();
    for (publisher, shelf) in &mut desks {
        settle(publisher).await;
        counts.push(listed(&shelf.complete().unwrap()).len());
    }
    assert_eq!(counts, [2, 1], "a user's certificate, so in the list for those only");
}

#[tokio::test]
async fn crl_29_30_31_the_extensions_that_were_asked_for_are_there_and_openssl_reads_them() {
    let mut house = House::new().await;
    house.config.next_publish = true;
    house.config.ca_issuers = Some("http://crl.example/ca/demo.cer".to_owned());
    house.config.keep_expired = KeepExpired::Forever;
    let mut publisher = house.publisher();
    house.reach_head();
    settle(&mut publisher).await;
    let complete = house.shelf.complete().unwrap();
    assert_eq!(read(&complete).next_publish, Some(at(6 * HOUR)));
    assert_eq!(read(&complete).ca_issuers, Some("http://crl.example/ca/demo.cer"));
    assert_eq!(read(&complete).expired_since, Some(house.issuer.certificate.not_before()));
    let text = openssl_crl(house.dir.path(), &complete);
    for part in
        ["Authority Information Access", "CA Issuers - URI:http://crl.example/ca/demo.cer", "1.3.6.1.4.1.311.21.4"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn rev_23_expired_entries_stay_as_long_as_configured_and_the_list_says_since_when() {
    let mut house = House::new().await;
    house.config.keep_expired = KeepExpired::For(Duration::from_secs(24 * 3_600));
    let ending = Record { not_after: at(HOUR), ..revoked(Reason::Superseded, at(-HOUR)) };
    house.index.load(vec![(serial(1), ending), (serial(2), revoked(Reason::Superseded, at(-HOUR)))]);
    let mut publisher = house.publisher();
    house.reach_head();
    for hours in 0..=5 {
        house.advance(at(6 * hours * HOUR + 1));
        settle(&mut publisher).await;
        assert_eq!(listed(&house.shelf.complete().unwrap()).len(), 2, "{hours}");
        assert_eq!(
            read(&house.shelf.complete().unwrap()).expired_since,
            Some(house.issuer.certificate.not_before()),
            "constant as long as nothing went"
        );
    }
    house.advance(at(36 * HOUR + 1));
    settle(&mut publisher).await;
    let complete = house.shelf.complete().unwrap();
    assert_eq!(listed(&complete).into_keys().collect::<Vec<_>>(), [serial(2)]);
    assert_eq!(read(&complete).expired_since, Some(at(HOUR + 1)));
    // Over a restart, and when they are to be kept for ever from now on.
    drop(publisher);
    house.config.keep_expired = KeepExpired::Forever;
    let rows = [(serial(2), revoked(Reason::Superseded, at(-HOUR))), (serial(1), ending)];
    house.restart(&rows, &rows).await;
    house.index.apply(&[(serial(3), revoked(Reason::KeyCompromise, at(37 * HOUR)))]);
    house.advance(at(37 * HOUR));
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    let complete = house.shelf.complete().unwrap();
    assert!(listed(&complete).contains_key(&serial(3)));
    assert_eq!(read(&complete).expired_since, Some(at(HOUR + 1)));
    drop(publisher);
    house.config.keep_expired = KeepExpired::No;
    house.restart(&rows, &rows).await;
    house.advance(at(42 * HOUR));
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    assert_eq!(read(&house.shelf.complete().unwrap()).expired_since, None, "ETSI-21");
}

#[tokio::test]
async fn etsi_07_the_last_list_comes_when_all_is_over_and_none_comes_after_it() {
    let mut house = House::new().await;
    house.config.last = true;
    let alive = Record { not_after: at(9 * HOUR), ..good(Time::default()) };
    house.index.load(vec![(serial(1), alive), (serial(2), revoked(Reason::Superseded, at(-HOUR)))]);
    let mut publisher = house.publisher();
    house.reach_head();
    for seconds in [0, 6 * HOUR] {
        house.advance(at(seconds));
        settle(&mut publisher).await;
        assert_eq!(house.shelf.complete().unwrap().next_update, at(seconds + 48 * HOUR), "one is still alive");
    }
    house.advance(at(12 * HOUR));
    settle(&mut publisher).await;
    let last = house.shelf.complete().unwrap();
    assert_eq!(last.next_update, Time::MAX);
    assert!(listed(&last).contains_key(&serial(2)) && house.shelf.delta().is_none());
    assert!(last.bytes.windows(17).any(|part| part == b"\x18\x0f99991231235959Z"), "a GeneralizedTime");
    house.advance(at(20 * HOUR));
    settle(&mut publisher).await;
    drop(publisher);
    let rows = [(serial(2), revoked(Reason::Superseded, at(-HOUR)))];
    house.restart(&rows, &rows).await;
    house.advance(at(400 * HOUR));
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    assert_eq!(*house.shelf.complete().unwrap(), *last);
}

#[tokio::test]
async fn crl_95_every_list_of_a_kept_history_comes_back_byte_for_byte() {
    for history in [History::All, History::For(Duration::from_secs(5 * 3_600)), History::Valid] {
        let mut house = House::new().await;
        house.config.history = history;
        house.config.delta_window = Duration::from_secs(7_200);
        let many: Vec<_> = (0..3_000).map(|n| (serial(n), revoked(Reason::Superseded, at(0)))).collect();
        house.index.load(many);
        let mut publisher = house.publisher();
        house.reach_head();
        let mut published = Vec::new();
        let mut added = Vec::new();
        for round in 0..40_i64 {
            let now = at(round * 600);
            let which = 3_000 + round as u64 % 7;
            let record = if round % 14 < 7 { revoked(Reason::CertificateHold, now) } else { good(now) };
            house.index.apply(&[(serial(which), record)]);
            house.advance(now);
            settle(&mut publisher).await;
            published.extend(house.shelf.complete().into_iter().map(|list| (Form::Complete, list)));
            published.extend(house.shelf.delta().into_iter().map(|list| (Form::Delta, list)));
            added.push(house.state.last(&house.scope(), Slot::Any).await.unwrap().unwrap().added);
        }
        assert!(added[0] > 100_000 && added[1..].iter().all(|added| *added < 40_000), "a chunk, not a list: {added:?}");
        let end = at(39 * 600);
        for (form, list) in &published {
            let row = house.state.list_numbered(&house.scope(), list.number, *form).await.unwrap().unwrap();
            assert_eq!(house.state.list_at(&house.scope(), list.this_update, *form).await.unwrap(), Some(row.clone()));
            let bytes = house.state.list_bytes(&house.scope(), &row).await.unwrap();
            let newest = list.this_update == end;
            let kept = match (history, form) {
                (History::All, _) => true,
                (History::For(time), _) => newest || list.this_update + time >= end,
                (History::Valid, Form::Complete) => list.this_update + house.config.delta_window >= end,
                (History::Valid, Form::Delta) => newest,
            };
            assert_eq!(bytes.as_deref(), kept.then_some(&*list.bytes), "{history:?} {form:?} {}", list.number);
        }
    }
}

#[derive(Debug)]
struct Directory(std::sync::atomic::AtomicU64);

impl Outlet for Directory {
    fn place(&self) -> String {
        "directory /srv/crl".to_owned()
    }

    fn highest(&self, _: &Scope) -> io::Result<Option<u64>> {
        Ok(Some(self.0.load(Ordering::Relaxed)))
    }
}

#[tokio::test]
async fn promise_5_what_is_published_ahead_of_the_store_stops_publication_until_it_is_adopted() {
    let mut house = House::new().await;
    house.outlets = vec![Arc::new(Directory((SLOT as u64 + 1_000_000).into()))];
    let mut publisher = house.publisher();
    house.reach_head();
    let error = publisher.step().await.unwrap_err().to_string();
    for part in ["directory /srv/crl holds CRL 1796327200 of demo", "`jarchy crl adopt demo`"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(house.shelf.complete().is_none());
    house.state.adopt(&house.scope(), SLOT as u64 + 1_000_000, "anna", at(0)).await.unwrap();
    settle(&mut publisher).await;
    assert_eq!(house.shelf.complete().unwrap().number, SLOT as u64 + 1_000_001);
}

#[tokio::test]
async fn promise_5_a_node_makes_lists_only_while_they_are_its_own_and_numbers_go_on_above_the_others() {
    let house = House::new().await;
    let (lease, held) = watch::channel(Lease::Unsaid(None));
    let mut publisher = house.publisher().leased(held);
    house.reach_head();
    let early = tokio::time::timeout(Duration::from_millis(100), publisher.step()).await;
    assert!(early.is_err() && house.shelf.complete().is_none(), "nobody has said whose they are");
    let ours = |floor| Lease::Ours { until: Instant::now() + Duration::from_secs(600), floor };
    lease.send_replace(ours(0));
    settle(&mut publisher).await;
    let first = house.shelf.complete().unwrap();

    let over = Lease::Ours { until: Instant::now(), floor: 0 };
    for (refusing, says) in [(Lease::Others("made at db2".to_owned()), "made at db2"), (over, "has not confirmed")] {
        lease.send_replace(refusing);
        house.index.apply(&[(serial(1), revoked(Reason::KeyCompromise, at(5)))]);
        house.advance(at(5));
        assert_eq!(publisher.step().await.unwrap(), Some(PATIENCE));
        publisher.report();
        let (state, reason) = house.health();
        assert!(state == health::State::Failed && reason.contains(says), "{state} {reason}");
        assert_eq!(*house.shelf.complete().unwrap(), *first, "what there is is served");
    }

    lease.send_replace(ours(SLOT as u64 + 1_000));
    settle(&mut publisher).await;
    let next = house.shelf.complete().unwrap();
    assert_eq!(next.number, SLOT as u64 + 1_001);
    assert!(listed(&next).contains_key(&serial(1)));
    assert_eq!(house.health().0, health::State::Ok);
}

#[tokio::test]
async fn promise_13_nothing_is_signed_after_the_clock_was_set_until_it_is_right_or_confirmed() {
    for (step, confirmed) in [(365 * 24 * HOUR, false), (365 * 24 * HOUR, true), (-24 * HOUR, false)] {
        let house = House::new().await;
        let mut publisher = house.publisher();
        house.reach_head();
        settle(&mut publisher).await;
        let before = house.shelf.complete().unwrap();
        house.index.apply(&[(serial(1), revoked(Reason::KeyCompromise, at(5)))]);
        house.clock.set(at(5));
        house.clock.step(at(5 + step));
        house.index.vouch(house.clock.now());
        match publisher.step().await {
            Err(PublishError::Clock(_)) => assert!(step > 0),
            Ok(Some(_)) => assert!(step < 0),
            other => panic!("{other:?}"),
        }
        publisher.report();
        assert_eq!(*house.shelf.complete().unwrap(), *before);
        if step < 0 {
            assert!(house.health().1.contains("jarchy crl supersede demo"), "{:?}", house.health());
        }
        if confirmed {
            house.guard.confirm();
            settle(&mut publisher).await;
            assert_eq!(house.shelf.complete().unwrap().this_update, at(5 + step));
            continue;
        }
        house.clock.step(at(6));
        house.index.vouch(at(6));
        // What the feed vouched for in the future, it vouches for: the list is dated by the clock.
        settle(&mut publisher).await;
        assert_eq!(house.shelf.complete().unwrap().this_update, at(6));
        assert_eq!(listed(&house.shelf.complete().unwrap()).len(), 1);
    }
}

#[tokio::test]
async fn promise_13_a_list_from_the_future_is_superseded_only_by_an_audited_word() {
    let mut house = House::new().await;
    let held = (serial(1), Record { not_after: at(2 * HOUR), ..revoked(Reason::Superseded, at(0)) });
    house.index.load(vec![held]);
    house.reach_head();
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    // A year ahead, for two regular slots: the entry is over by then.
    for ahead in [365 * 24 * HOUR, 366 * 24 * HOUR] {
        house.advance(at(ahead));
        settle(&mut publisher).await;
    }
    let future = house.shelf.complete().unwrap();
    assert!(listed(&future).is_empty());
    drop(publisher);
    house.clock.set(at(60));
    house.restart(&[held], &[held]).await;
    let mut publisher = house.publisher();
    settle(&mut publisher).await;
    assert_eq!(house.shelf.complete().unwrap().number, future.number, "nothing comes by itself");
    house.state.set_clock_doubt(Some(Doubt { seen: at(60), expected: future.this_update })).await.unwrap();
    assert_eq!(house.state.supersede(&house.scope(), "anna", at(60)).await.unwrap(), 2);
    assert_eq!(house.state.clock_doubt().await.unwrap(), None);
    while house.shelf.complete().unwrap().number == future.number {
        settle(&mut publisher).await;
    }
    let mended = house.shelf.complete().unwrap();
    assert!(mended.number > future.number);
    assert_eq!((mended.this_update, mended.next_update), (at(60), at(60 + 48 * HOUR)));
    assert!(listed(&mended).contains_key(&serial(1)), "what the future had dropped is back");
}

#[tokio::test]
async fn two_publishers_on_one_state_by_mistake_never_share_a_number() {
    let house = House::new().await;
    house.index.load(vec![(serial(1), revoked(Reason::Superseded, at(0)))]);
    house.reach_head();
    // As though the lock of the state store did not work, on some network file system.
    let shelves = [Arc::new(Shelf::new()), Arc::new(Shelf::new())];
    let mut both: Vec<_> =
        shelves.iter().map(|shelf| house.publisher_of(Share::whole(Arc::clone(&house.index)), shelf)).collect();
    let mut seen: BTreeMap<u64, String> = BTreeMap::new();
    let mut lost = 0;
    for round in 0..12 {
        house.index.apply(&[(serial(10 + round), revoked(Reason::KeyCompromise, at(round as i64)))]);
        house.advance(at(round as i64));
        let (one, two) = both.split_at_mut(1);
        let results = tokio::join!(one[0].step(), two[0].step());
        for result in [results.0, results.1] {
            lost += usize::from(matches!(result, Err(PublishError::State(StateError::Overtaken { .. }))));
        }
        for shelf in &shelves {
            if let Some(list) = shelf.complete() {
                assert_eq!(
                    *seen.entry(list.number).or_insert_with(|| list.etag.clone()),
                    list.etag,
                    "one number, one list"
                );
            }
        }
    }
    println!("{lost} lost a race");
    assert!(seen.len() > 6);
}
