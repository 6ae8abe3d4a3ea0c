//! What is signed before anybody asks for it, and what HTTP caches are told meanwhile.

use super::*;
use crate::metrics::{Origin as Counted, Presigned};
use crate::ocsp::response::{Parsed, parse};
use std::collections::HashSet;

/// Their lifetime is an hour: answers are dated anew every 7/16 of it, and given 1/16 longer.
const PERIOD: Duration = Duration::from_secs(3_600 * 7 / 16);
const GRACE: Duration = Duration::from_secs(3_600 / 16);

fn go_to(ca: &Ca, clock: &ManualClock, now: Time) {
    clock.set(now);
    ca.index.vouch(now);
}

/// The first second at which the answer that is given now could be signed anew.
async fn renewed_at(responder: &Responder, ca: &Ca, now: Time) -> Time {
    let said = ask(responder, ca, serial(1), now).await.unwrap();
    said.this_update + PERIOD + Duration::from_secs(1)
}

#[tokio::test]
async fn what_is_asked_for_is_signed_anew_before_anybody_waits_for_it() {
    let ca = Ca::new("one");
    ca.index.apply(&[(serial(2), record(Status::Good, 0))]);
    let (responder, clock) = responder(&[&ca], policy());
    ask(&responder, &ca, serial(2), NOW).await.unwrap();
    let mut due = renewed_at(&responder, &ca, NOW).await;
    let signed = |responder: &Responder| responder.metrics.answers.get(Counted::Signed);
    for round in 0..10 {
        let before = ask(&responder, &ca, serial(1), due - Duration::from_secs(1)).await.unwrap();
        responder.refresh_once().await;
        go_to(&ca, &clock, due);
        // Between the moment and the refresher's next look the elder is given.
        let overdue = responder.metrics.answers.get(Counted::Overdue);
        let between = ask(&responder, &ca, serial(1), due).await.unwrap();
        assert_eq!(between.this_update, before.this_update, "{round}");
        assert_eq!(responder.metrics.answers.get(Counted::Overdue), overdue + 1);
        let (made, ahead) = (signed(&responder), responder.metrics.presigned.get(Presigned::Hot));
        responder.refresh_once().await;
        let after = ask(&responder, &ca, serial(1), due).await.unwrap();
        assert_eq!(after.this_update, before.this_update + PERIOD, "{round}");
        assert!(after.next_update > due + policy().lifetime / 2, "half its life is left: {round}");
        // The refresher has signed, and nobody else.
        let ahead = responder.metrics.presigned.get(Presigned::Hot) - ahead;
        assert_eq!((signed(&responder), ahead > 0), (made + ahead, true));
        due = due + PERIOD;
    }
    // The second certificate was asked for once and signed anew once.
    assert_eq!(responder.metrics.presigned.get(Presigned::Hot), 11);
}

#[tokio::test]
async fn br_10_without_a_refresher_answers_are_signed_anew_before_half_their_life_is_over() {
    for (presign, grace) in [(Presign::Hot, GRACE), (Presign::None, Duration::ZERO)] {
        let ca = Ca::new("one");
        let (responder, clock) = responder(&[&ca], Policy { presign, ..policy() });
        let due = renewed_at(&responder, &ca, NOW).await;
        let first = ask(&responder, &ca, serial(1), NOW).await.unwrap();
        let late = due + grace.saturating_sub(Duration::from_secs(1));
        let expected = if grace.is_zero() { first.this_update + PERIOD } else { first.this_update };
        go_to(&ca, &clock, late);
        assert_eq!(ask(&responder, &ca, serial(1), late).await.unwrap().this_update, expected);
        let too_late = due + grace;
        assert!(too_late <= first.this_update + policy().lifetime / 2 + Duration::from_secs(1));
        go_to(&ca, &clock, too_late);
        assert_eq!(ask(&responder, &ca, serial(1), too_late).await.unwrap().this_update, first.this_update + PERIOD);
    }
}

#[tokio::test]
async fn br_10_an_answer_of_the_period_before_last_is_not_given_though_the_refresher_has_a_moment_left() {
    let ca = Ca::new("one");
    let (responder, clock) = responder(&[&ca], policy());
    let first = ask(&responder, &ca, serial(1), NOW).await.unwrap();
    let late = renewed_at(&responder, &ca, NOW).await + PERIOD;
    go_to(&ca, &clock, late);
    let said = ask(&responder, &ca, serial(1), late).await.unwrap();
    assert_eq!(said.this_update, first.this_update + PERIOD * 2);
}

#[tokio::test]
async fn where_a_list_is_the_source_answers_are_renewed_all_the_while_that_it_holds_and_when_the_next_one_comes() {
    for presign in [Presign::Hot, Presign::All { rate: 1_000_000 }] {
        let ca = Ca::new("one");
        let day = Duration::from_secs(86_400);
        ca.index.hold_until(NOW + day);
        let (responder, clock) = responder(&[&ca], Policy { presign, ..policy() });
        responder.refresh_once().await;
        let mut before = ask(&responder, &ca, serial(1), NOW).await.unwrap();
        let signed = || responder.metrics.answers.get(Counted::Signed);
        let ahead = || responder.metrics.presigned.get(Presigned::Hot);
        let began = before.next_update - policy().lifetime;
        for round in 1..20 {
            let due = began + PERIOD * round + Duration::from_secs(1);
            clock.set(due);
            let made = (signed(), ahead());
            responder.refresh_once().await;
            let after = ask(&responder, &ca, serial(1), due).await.unwrap();
            assert_eq!((after.this_update, after.next_update), (NOW, before.next_update + PERIOD), "{round}");
            assert!(ahead() > made.1 && signed() - made.0 == ahead() - made.1, "{round}: nobody else has signed");
            let idle = signed();
            responder.refresh_once().await;
            assert_eq!(signed(), idle, "nothing is signed twice");
            before = after;
        }
        let next = clock.now() + Duration::from_secs(60);
        go_to(&ca, &clock, next);
        ca.index.hold_until(next + day);
        responder.refresh_once().await;
        let made = signed();
        assert_eq!(ask(&responder, &ca, serial(1), next).await.unwrap().this_update, next);
        assert_eq!(signed(), made);
    }
}

#[tokio::test]
async fn all_goes_on_for_an_expired_certificate_only_while_somebody_asks() {
    let ca = Ca::new("one");
    let ends = NOW + Duration::from_secs(60);
    ca.index.apply(&[(serial(2), Record { not_after: ends, ..record(Status::Good, 0) })]);
    let (responder, clock) = responder(&[&ca], Policy { presign: Presign::All { rate: 1_000_000 }, ..policy() });
    let made = || responder.metrics.signatures.get(Purpose::Ocsp);
    responder.refresh_once().await;
    assert_eq!(made(), 4);
    let mut now = NOW + PERIOD + Duration::from_secs(1);
    for _ in 0..3 {
        go_to(&ca, &clock, now);
        let before = made();
        responder.refresh_once().await;
        assert_eq!(made(), before + 2, "those of the other certificate");
        now = now + PERIOD;
    }
    ask(&responder, &ca, serial(2), clock.now()).await.unwrap();
    go_to(&ca, &clock, now);
    let before = made();
    responder.refresh_once().await;
    assert_eq!(made(), before + 3, "somebody has asked for one of them");
}

#[tokio::test]
async fn all_keeps_every_certificate_that_has_not_expired_signed() {
    let ca = Ca::new("one");
    for n in 2..=50 {
        ca.index.apply(&[(serial(n), record(Status::Good, 0))]);
    }
    let expired = Record { not_after: NOW - Duration::from_secs(1), ..record(Status::Good, 0) };
    ca.index.apply(&[(serial(99), expired)]);
    let (responder, clock) = responder(&[&ca], Policy { presign: Presign::All { rate: 1_000_000 }, ..policy() });
    let made = || responder.metrics.signatures.get(Purpose::Ocsp);
    responder.refresh_once().await;
    assert_eq!((made(), responder.metrics.presigned.get(Presigned::All)), (100, 100));
    responder.refresh_once().await;
    assert_eq!(made(), 100, "nothing is signed twice");
    for now in [NOW, NOW + PERIOD + Duration::from_secs(1)] {
        go_to(&ca, &clock, now);
        responder.refresh_once().await;
        for n in 1..=50 {
            for hash in [HashAlgorithm::Sha1, HashAlgorithm::Sha256] {
                let cert_id = encode_cert_id(&ca.issuer.hashes(hash), serial(n).as_bytes());
                let reply = responder.answer(Client::LOCAL, None, &encode(&cert_id, None)).await;
                check(&reply.body, &cert_id, None, &ca.issuer.certificate, now).unwrap();
            }
        }
    }
    assert_eq!(made(), 200);
    assert_eq!(responder.metrics.answers.get(Counted::Overdue), 0);
    // One that is issued now is signed at the next look, one that is revoked when it is asked for.
    ca.index.apply(&[(serial(60), record(Status::Good, clock.now().unix()))]);
    responder.refresh_once().await;
    assert_eq!(made(), 202);
}

#[tokio::test]
async fn none_signs_nothing_ahead_and_a_stale_index_neither() {
    for (presign, staleness) in [(Presign::None, 0), (Presign::Hot, 61), (Presign::All { rate: 9 }, 61)] {
        let ca = Ca::new("one");
        let (responder, clock) = responder(&[&ca], Policy { presign, ..policy() });
        let due = renewed_at(&responder, &ca, NOW).await;
        ca.index.vouch(due);
        clock.set(due + Duration::from_secs(staleness));
        let made = responder.metrics.signatures.get(Purpose::Ocsp);
        responder.refresh_once().await;
        assert_eq!(responder.metrics.signatures.get(Purpose::Ocsp), made, "{presign:?}");
    }
}

#[tokio::test]
async fn the_refresher_ends_when_it_is_told_to() {
    let ca = Ca::new("one");
    for presign in [Presign::None, Presign::Hot, Presign::All { rate: 1 }] {
        let (responder, _) = responder(&[&ca], Policy { presign, ..policy() });
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (_current, responders) = tokio::sync::watch::channel(Arc::new(responder));
        let running = tokio::spawn(refresh::run(responders, stopped));
        tokio::task::yield_now().await;
        stop.send(true).unwrap();
        running.await.unwrap();
    }
}

#[tokio::test]
async fn http_15_max_age_is_spread_over_an_eighth() {
    let ca = Ca::new("one");
    let max_age_good = Duration::from_secs(800);
    let (responder, _) = responder(&[&ca], Policy { max_age_good, ..policy() });
    let mut ages = HashSet::new();
    for n in 1..=200 {
        ca.index.apply(&[(serial(n), record(Status::Good, 0))]);
        let request = encode(&ca.cert_id(serial(n)), None);
        let reply = responder.answer(Client::LOCAL, None, &request).await;
        let Caching::Public { max_age, .. } = reply.caching else { panic!() };
        let Parsed::Basic(basic) = parse(&reply.body).unwrap() else { panic!() };
        let left = (basic.singles[0].this_update + PERIOD).since(NOW);
        if left > max_age_good {
            assert!((700..=800).contains(&max_age), "{max_age}");
            ages.insert(max_age);
        }
    }
    assert!(ages.len() > 30, "{ages:?}");
}

#[tokio::test]
async fn http_13_the_tag_tells_every_signature_apart_and_stays_with_it() {
    let ca = Ca::new("one");
    let tag_of = async |responder: &Responder, serial| {
        let reply = responder.answer(Client::LOCAL, None, &encode(&ca.cert_id(serial), None)).await;
        let Caching::Public { tag, .. } = reply.caching else { panic!() };
        (tag, reply.body)
    };
    let mut seen = HashSet::new();
    for id in 0..3 {
        let clock = Arc::new(ManualClock::new(NOW));
        let authorities = vec![ca.authority(id, policy())];
        let responder = Responder::new(authorities, 1 << 20, Limits::default(), clock, Metrics::new());
        for n in 1..=50 {
            ca.index.apply(&[(serial(n), record(Status::Good, 0))]);
            let (tag, body) = tag_of(&responder, serial(n)).await;
            assert_eq!(tag_of(&responder, serial(n)).await, (tag, body));
            assert!(seen.insert(tag), "two answers with one tag");
        }
    }
}
