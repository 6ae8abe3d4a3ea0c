//! Many ask at once, while statuses and signers change under their hands.
#![allow(clippy::print_stdout)]

use super::*;
use crate::der::{element, tag};
use crate::metrics::{Limit, Origin as Counted};
use arc_swap::ArcSwap;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicUsize};

fn long() -> bool {
    std::env::var_os("JARCHY_LONG").is_some()
}

fn nth(n: usize) -> Serial {
    Serial::from_magnitude(&[&[0x5a; 12][..], &u32::try_from(n).unwrap().to_be_bytes()].concat()).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Whatever comes back, unsigned errors aside, with its signature checked.
fn checked(reply: &Reply, cert_id: &[u8], ca: &Certificate) -> Verified {
    check(&reply.body, cert_id, None, ca, NOW).unwrap()
}

/// A CertID without the NULL.
fn without_null(ca: &Ca, hash: HashAlgorithm, serial: Serial) -> Vec<u8> {
    request::cert_id_with(&ca.issuer.hashes(hash), &[], serial.as_bytes())
}

/// An authority of the test PKI, whose keys are slow ones too.
fn from_testdata(kind: &str, index: Arc<Index>, policy: Policy) -> (Authority, Arc<Issuer>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pki");
    let read = |name: String| Certificate::from_file_bytes(&std::fs::read(folder.join(name)).unwrap()).unwrap();
    let (certificate, delegate) = (read(format!("ca-{kind}.pem")), read(format!("ocsp-{kind}.pem")));
    // Not readable for everybody, as a checkout's files are.
    let mut key = tempfile::NamedTempFile::new().unwrap();
    key.write_all(&std::fs::read(folder.join(format!("ocsp-{kind}.key"))).unwrap()).unwrap();
    let signer = Arc::new(Signer::from_file(key.path(), &delegate).unwrap());
    let issuer = Arc::new(Issuer { name: "slow".parse().unwrap(), certificate });
    let now = NOW.max(delegate.not_before());
    let credentials = vec![Credential::new(1, signer, Some(delegate))];
    (Authority::new(Arc::clone(&issuer), index, credentials, policy, now).unwrap(), issuer)
}

#[test]
fn promise_4_thousands_of_answers_race_with_holds_releases_and_revocations() {
    let ca = Ca::new("one");
    let count = if long() { 20_000 } else { 1_500 };
    ca.index.load((0..count).map(|n| (nth(n), record(Status::Good, 0))).collect());
    // Small enough that answers are pushed out and signed again all the time.
    let clock = Arc::new(ManualClock::new(NOW));
    let authorities = vec![ca.authority(0, policy())];
    let responder = Responder::new(authorities, 256 << 10, Limits::default(), clock, Metrics::new());
    // 0 good, 1 held, 2 good again, 3 revoked; written after the index has it.
    let phases: Vec<AtomicU8> = (0..count).map(|_| AtomicU8::new(0)).collect();
    let (done, asked, wrong) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (responder, ca, phases, done, asked, wrong) = (&responder, &ca, &phases, &done, &asked, &wrong);
            scope.spawn(move || {
                let mut state = 20_261_122 + thread;
                while !done.load(Ordering::SeqCst) {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let n = (state >> 33) % count;
                    let cert_id = match state >> 61 {
                        0..4 => ca.cert_id(nth(n)),
                        4 => without_null(ca, HashAlgorithm::Sha256, nth(n)),
                        _ => encode_cert_id(&ca.issuer.hashes(HashAlgorithm::Sha256), nth(n).as_bytes()),
                    };
                    let nonce = (state >> 58 & 7 == 0).then_some(&[7_u8; 16][..]);
                    let before = phases[n].load(Ordering::SeqCst);
                    let reply = block_on(responder.answer(Client::LOCAL, None, &encode(&cert_id, nonce)));
                    let after = phases[n].load(Ordering::SeqCst);
                    let response::Parsed::Basic(basic) = response::parse(&reply.body).unwrap() else { panic!() };
                    let is_good = basic.singles[0].status == CertStatus::Good;
                    assert_eq!(basic.singles[0].cert_id, cert_id);
                    // The index has a step before `phases` has. What was true at no moment of the request
                    // must not be said.
                    let mut possible = before..=(after + 1).min(3);
                    let is_wrong = !possible.any(|phase| (phase % 2 == 0) == is_good);
                    wrong.fetch_add(usize::from(is_wrong), Ordering::SeqCst);
                    if asked.fetch_add(1, Ordering::SeqCst) % 16 == 0 && nonce.is_none() {
                        checked(&reply, &cert_id, &ca.issuer.certificate);
                    }
                }
            });
        }
        let steps = [revoked(Reason::CertificateHold), Status::Good, revoked(Reason::KeyCompromise)];
        for (phase, status) in (1..).zip(steps) {
            for (n, reached) in phases.iter().enumerate() {
                ca.index.apply(&[(nth(n), record(status, NOW.unix() + i64::from(phase) - 3))]);
                reached.store(phase, Ordering::SeqCst);
                if n % 4 == 0 {
                    std::thread::yield_now();
                }
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(wrong.load(Ordering::SeqCst), 0, "of {}", asked.load(Ordering::SeqCst));
    println!(
        "{} answers, {} from the cache",
        asked.load(Ordering::SeqCst),
        responder.metrics.answers.get(Counted::Cache)
    );
    assert!(asked.load(Ordering::SeqCst) > 500 && responder.metrics.answers.get(Counted::Cache) > 0);
}

#[test]
fn promise_4_a_revocation_during_a_slow_signature_reaches_everybody_who_asked_after_it() {
    let index = Arc::new(Index::new());
    index.vouch(NOW);
    index.set_complete();
    let (authority, issuer) = from_testdata("rsa2048", Arc::clone(&index), policy());
    let now =
        Arc::new(ManualClock::new(NOW.max(authority.look_after_signers(NOW).until - Duration::from_secs(86_400))));
    index.vouch(now.now());
    let responder = Responder::new(vec![authority], 1 << 20, Limits::default(), Arc::clone(&now) as _, Metrics::new());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let responder = Arc::new(responder);
    for n in 0..if long() { 500 } else { 40 } {
        index.apply(&[(nth(n), record(Status::Good, 0))]);
        let request = encode(&encode_cert_id(&issuer.hashes(HashAlgorithm::Sha1), nth(n).as_bytes()), None);
        let ask = || {
            let (responder, request) = (Arc::clone(&responder), request.clone());
            runtime.spawn(async move {
                let reply = responder.answer(Client::LOCAL, None, &request).await;
                let response::Parsed::Basic(basic) = response::parse(&reply.body).unwrap() else { panic!() };
                basic.singles[0].status
            })
        };
        let early: Vec<_> = (0..8).map(|_| ask()).collect();
        index.apply(&[(nth(n), record(revoked(Reason::KeyCompromise), now.now().unix()))]);
        let late: Vec<_> = (0..8).map(|_| ask()).collect();
        runtime.block_on(async {
            for answer in early {
                answer.await.unwrap();
            }
            for answer in late {
                assert!(matches!(answer.await.unwrap(), CertStatus::Revoked(_)), "{n}");
            }
        });
    }
}

#[test]
fn a_burst_for_one_certificate_signs_once_with_quick_keys_and_with_slow_ones() {
    for kind in ["p256", "ed25519", "p384", "rsa2048"] {
        let index = Arc::new(Index::new());
        index.apply(&[(serial(1), record(Status::Good, 0))]);
        index.set_complete();
        let (authority, issuer) = from_testdata(kind, Arc::clone(&index), policy());
        let now = NOW.max(authority.look_after_signers(NOW).until - Duration::from_secs(86_400));
        index.vouch(now);
        let (clock, metrics) = (Arc::new(ManualClock::new(now)), Metrics::new());
        let responder = Responder::new(vec![authority], 1 << 20, Limits::default(), clock, metrics.clone());
        let responder = Arc::new(responder);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
        let request = encode(&encode_cert_id(&issuer.hashes(HashAlgorithm::Sha1), serial(1).as_bytes()), None);
        let asked: Vec<_> = (0..500)
            .map(|_| {
                let (responder, request) = (Arc::clone(&responder), request.clone());
                runtime.spawn(async move { responder.answer(Client::LOCAL, None, &request).await.body })
            })
            .collect();
        let bodies: Vec<_> =
            runtime.block_on(async { futures(asked).await }).into_iter().map(|body| body.unwrap()).collect();
        assert!(bodies[0].len() > 100 && bodies.iter().all(|body| *body == bodies[0]), "{kind}");
        assert_eq!(metrics.signatures.get(Purpose::Ocsp), 1, "{kind}");
    }
}

async fn futures<T>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<Result<T, tokio::task::JoinError>> {
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await);
    }
    all
}

#[tokio::test]
async fn promise_11_cert_ids_that_differ_only_in_null_get_each_its_own_signature() {
    let ca = Ca::new("one");
    let (responder, _) = responder(&[&ca], policy());
    for round in ["signed", "from the cache"] {
        let mut bodies = Vec::new();
        for hash in HashAlgorithm::ALL {
            for cert_id in
                [encode_cert_id(&ca.issuer.hashes(hash), serial(1).as_bytes()), without_null(&ca, hash, serial(1))]
            {
                let reply = responder.answer(Client::LOCAL, None, &encode(&cert_id, None)).await;
                checked(&reply, &cert_id, &ca.issuer.certificate);
                bodies.push(reply.body);
            }
        }
        let forms = bodies.len();
        bodies.sort_unstable();
        bodies.dedup();
        assert_eq!(bodies.len(), forms, "{round}");
        let made = responder.metrics.signatures.get(Purpose::Ocsp);
        assert_eq!(usize::try_from(made).unwrap(), forms, "{round}");
    }
}

#[test]
fn no_signature_stands_in_a_response_of_another_signer_while_signers_take_over() {
    let ca = Ca::new("one");
    ca.index.load((0..50).map(|n| (nth(n), record(Status::Good, 0))).collect());
    let other = Ca::new("two");
    other.index.load((0..50).map(|n| (nth(n), record(Status::Good, 0))).collect());
    let (first, _) = responder(&[&ca, &other], policy());
    let metrics = first.metrics.clone();
    let current = ArcSwap::from_pointee(first);
    let done = AtomicBool::new(false);
    let rounds = if long() { 200 } else { 12 };
    std::thread::scope(|scope| {
        for thread in 0..3_usize {
            let (ca, other, current, done) = (&ca, &other, &current, &done);
            scope.spawn(move || {
                let mut n = thread;
                while !done.load(Ordering::SeqCst) {
                    n += 1;
                    let asked = if n % 3 == 0 { other } else { ca };
                    let cert_id = asked.cert_id(nth(n % 50));
                    let responder = current.load_full();
                    let reply = block_on(responder.answer(Client::LOCAL, None, &encode(&cert_id, None)));
                    checked(&reply, &cert_id, &asked.issuer.certificate);
                }
            });
        }
        for round in 0..rounds {
            // Of two delegates the later one signs; with every round another pair.
            let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
            let credentials = (1..3).map(|n| another(&ca, 2 * round + 1 + n, p256, -DAY * i64::from(n), DAY)).collect();
            let (issuer, index) = (Arc::clone(&ca.issuer), Arc::clone(&ca.index));
            let next = Authority::new(issuer, index, credentials, policy(), NOW).unwrap();
            let clock = Arc::new(ManualClock::new(NOW));
            let authorities = vec![next, other.authority(1, policy())];
            let next = Responder::new(authorities, 1 << 20, Limits::default(), clock, metrics.clone());
            current.store(Arc::new(next));
            // Until the new one has been at work.
            let made = metrics.signatures.get(Purpose::Ocsp);
            while metrics.signatures.get(Purpose::Ocsp) < made + 20 {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(metrics.answers.get(Counted::Cache) > 0);
}

#[tokio::test]
async fn sec_14_absent_serials_are_signed_once_a_minute_at_most_and_push_nothing_out() {
    let ca = Ca::new("one");
    let policy = Policy { not_issued: NotIssued::Unknown, live_rate: LiveRate { issuer: 50, client: 10 }, ..policy() };
    let (responder, clock) = responder(&[&ca], policy);
    ask(&responder, &ca, serial(1), NOW).await.unwrap();
    let first = ask(&responder, &ca, nth(0), NOW).await.unwrap();
    // The same again costs nothing, though time goes on; and no longer than a minute.
    clock.set(NOW + Duration::from_secs(5));
    ca.index.vouch(NOW + Duration::from_secs(5));
    let again = ask(&responder, &ca, nth(0), NOW).await.unwrap();
    assert_eq!((first.status, first.produced_at), (CertStatus::Unknown, again.produced_at));
    assert_eq!(responder.metrics.signatures.get(Purpose::Ocsp), 2);
    // A stranger with many serials.
    let client = Client::at("192.0.2.7".parse().unwrap());
    let mut refused = 0;
    for n in 1..1_000 {
        let reply = responder.answer(client, None, &encode(&ca.cert_id(nth(n)), None)).await;
        refused += u32::from(&reply.body[..] == Failure::TryLater.der());
    }
    assert!(refused > 900, "{refused}");
    assert_eq!(responder.metrics.live_refused.get(Limit::Client), u64::from(refused));
    let made = responder.metrics.signatures.get(Purpose::Ocsp);
    ask(&responder, &ca, serial(1), NOW).await.unwrap();
    ask(&responder, &ca, nth(0), NOW).await.unwrap();
    assert_eq!(responder.metrics.signatures.get(Purpose::Ocsp), made);
    // It is issued after all: at once.
    ca.index.apply(&[(nth(0), record(Status::Good, NOW.unix() + 5))]);
    assert_eq!(ask(&responder, &ca, nth(0), NOW).await.unwrap().status, CertStatus::Good);
}

#[tokio::test]
async fn ocsp_66_beyond_its_rate_and_where_it_is_not_signed_a_nonce_gets_the_cached_reply() {
    let ca = Ca::new("one");
    let request = encode(&ca.cert_id(serial(1)), Some(&[7; 32]));
    for (nonce, rate, echoed) in
        [(NoncePolicy::Live, 3, 3), (NoncePolicy::CachedReply, 3, 0), (NoncePolicy::Live, 0, 0)]
    {
        let policy = Policy { nonce, live_rate: LiveRate { issuer: rate, client: rate }, ..policy() };
        let (responder, _) = responder(&[&ca], policy);
        let mut with_nonce = 0;
        for _ in 0..20 {
            let reply = responder.answer(Client::LOCAL, None, &request).await;
            let said = check(&reply.body, &ca.cert_id(serial(1)), Some(&[7; 32]), &ca.issuer.certificate, NOW).unwrap();
            with_nonce += u32::from(said.nonce_echoed);
            // OCSP-67.
            assert_eq!(reply.caching, Caching::NoStore);
        }
        // A bucket refills while the test runs, by one in a third of a second.
        assert!((echoed..=echoed + 2 * rate.min(echoed)).contains(&with_nonce), "{nonce:?} {rate}: {with_nonce}");
        // One signature serves all the rest.
        assert_eq!(responder.metrics.signatures.get(Purpose::Ocsp), u64::from(with_nonce) + 1);
    }
}

#[tokio::test]
async fn sec_01_several_certificates_in_one_request_are_paid_for_too() {
    let ca = Ca::new("one");
    let (responder, _) = responder(&[&ca], Policy { live_rate: LiveRate { issuer: 0, client: 0 }, ..policy() });
    let single = element(tag::SEQUENCE, &[&ca.cert_id(serial(1))]);
    let list = element(tag::SEQUENCE, &[&single, &single]);
    let request = element(tag::SEQUENCE, &[&element(tag::SEQUENCE, &[&list])]);
    let reply = responder.answer(Client::LOCAL, None, &request).await;
    assert_eq!(&reply.body[..], Failure::TryLater.der());
    assert_eq!(responder.metrics.live_refused.get(Limit::Issuer), 1);
}

#[tokio::test]
async fn sec_01_under_a_revoked_ca_serials_of_nobody_are_paid_for_and_kept_apart() {
    let ca = Ca::new("one");
    let compromised = Revocation { at: NOW, reason: Reason::CaCompromise, invalidity_date: None };
    let open = Policy { ca_revoked: Some(compromised), ..policy() };
    let (poor, _) = responder(&[&ca], Policy { live_rate: LiveRate { issuer: 0, client: 0 }, ..open.clone() });
    let too_long: Vec<u8> = std::iter::once(0).chain([0xaa; 20]).collect();
    let nobodys = encode_cert_id(&ca.issuer.hashes(HashAlgorithm::Sha1), &too_long);
    for cert_id in [ca.cert_id(nth(0)), nobodys] {
        let reply = poor.answer(Client::LOCAL, None, &encode(&cert_id, None)).await;
        assert_eq!(&reply.body[..], Failure::TryLater.der());
    }
    assert_eq!(ask(&poor, &ca, serial(1), NOW).await.unwrap().status, CertStatus::Revoked(compromised));
    let (rich, _) = responder(&[&ca], open);
    for n in 0..10 {
        let said = reply(&rich, &ca, nth(n)).await;
        assert_eq!(basic(&said).singles[0].status, CertStatus::Revoked(compromised));
        let Caching::Public { max_age, .. } = said.caching else { panic!("it is signed") };
        assert!(max_age <= 60, "promise 1: {max_age}");
    }
    assert_eq!(rich.cache.size().0, 0, "SEC-14");
}

#[tokio::test]
async fn sec_01_one_certificate_in_all_forms_that_a_cert_id_can_have_is_paid_for() {
    let ca = Ca::new("one");
    let (responder, clock) = responder(&[&ca], Policy { live_rate: LiveRate { issuer: 0, client: 0 }, ..policy() });
    let later = NOW + policy().lifetime;
    for now in [NOW, later] {
        clock.set(now);
        ca.index.vouch(now);
        for _ in 0..2 {
            for hash in HashAlgorithm::ALL.into_iter().rev() {
                let hashes = ca.issuer.hashes(hash);
                for cert_id in [encode_cert_id(&hashes, serial(1).as_bytes()), without_null(&ca, hash, serial(1))] {
                    responder.answer(Client::LOCAL, None, &encode(&cert_id, None)).await;
                }
            }
        }
        // SHA-1 and SHA-256 with and without NULL, and one form that others seldom use.
        let made = responder.metrics.signatures.get(Purpose::Ocsp);
        assert_eq!(made, if now == NOW { 5 } else { 10 });
    }
}
