//! What the responder answers, seen through its own client check; `tests/` asks OpenSSL the same.
#![allow(clippy::unwrap_used)]

mod race_tests;
mod refresh_tests;

use super::check::{CheckError, Verified, check};
use super::request::{encode, encode_cert_id};
use super::*;
use crate::index::{Index, Record};
use crate::pki::{Certificate, Issuer, ManualClock, Reason, Revocation, Status};
use crate::sign::Signer;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const NOW: Time = Time::from_unix(1_795_000_000);

/// One CA with a delegate, and what its authority needs.
struct Ca {
    issuer: Arc<Issuer>,
    index: Arc<Index>,
    signer: Arc<Signer>,
    delegate: Certificate,
    /// With which more delegates are issued.
    signing: rcgen::Issuer<'static, KeyPair>,
}

/// The key in a file that only its owner may read.
fn key_file(key: &KeyPair) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), key.serialize_pem()).unwrap();
    file
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2036, 1, 1);
    params
}

impl Ca {
    fn new(name: &str) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = params(name);
        ca.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        let certificate = ca.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut delegate = params("delegate");
        delegate.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        let signing = rcgen::Issuer::new(ca, ca_key);
        let delegate = delegate.signed_by(&key, &signing).unwrap();
        let delegate = Certificate::from_der(delegate.der()).unwrap();
        let signer = Arc::new(Signer::from_file(key_file(&key).path(), &delegate).unwrap());
        let certificate = Certificate::from_der(certificate.der()).unwrap();
        let issuer = Arc::new(Issuer { name: name.parse().unwrap(), certificate });
        let index = Arc::new(Index::new());
        index.apply(&[(serial(1), record(Status::Good, 0))]);
        index.vouch(NOW);
        index.set_complete();
        Self { issuer, index, signer, delegate, signing }
    }

    fn credential(&self, id: u32, delegate: &Certificate) -> Credential {
        Credential::new(id, Arc::clone(&self.signer), Some(delegate.clone()))
    }

    fn authority(&self, id: u32, policy: Policy) -> Authority {
        let (issuer, index) = (Arc::clone(&self.issuer), Arc::clone(&self.index));
        Authority::new(issuer, index, vec![self.credential(id, &self.delegate)], policy, NOW).unwrap()
    }

    fn cert_id(&self, serial: Serial) -> Vec<u8> {
        encode_cert_id(&self.issuer.hashes(HashAlgorithm::Sha1), serial.as_bytes())
    }
}

fn policy() -> Policy {
    let live_rate = LiveRate { issuer: 100_000, client: 100_000 };
    Policy { max_age_uncertain: Duration::from_secs(30), live_rate, ..Policy::default() }
}

fn serial(n: u8) -> Serial {
    Serial::from_content(&[n; 16]).unwrap()
}

fn record(status: Status, since: i64) -> Record {
    let not_before = Time::from_unix(1_780_000_000);
    let not_after = not_before + Duration::from_secs(365 * 86_400);
    Record { not_before, not_after, status, since: Time::from_unix(since), sha256: None }
}

fn revoked(reason: Reason) -> Status {
    Status::Revoked(Revocation { at: NOW - Duration::from_secs(9), reason, invalidity_date: None })
}

/// A responder for `cas`, and the clock it goes by.
fn responder(cas: &[&Ca], policy: Policy) -> (Responder, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(NOW));
    let authorities = cas.iter().zip(0..).map(|(ca, id)| ca.authority(id, policy.clone())).collect();
    (Responder::new(authorities, 1 << 20, Limits::default(), Arc::clone(&clock) as _, Metrics::new()), clock)
}

async fn ask(responder: &Responder, ca: &Ca, serial: Serial, now: Time) -> Result<Verified, CheckError> {
    let cert_id = ca.cert_id(serial);
    let reply = responder.answer(Client::LOCAL, None, &encode(&cert_id, None)).await;
    check(&reply.body, &cert_id, None, &ca.issuer.certificate, now)
}

fn failed_with(checked: Result<Verified, CheckError>, failure: Failure) -> bool {
    matches!(checked, Err(CheckError::Failure(code)) if code == failure as u8)
}

#[tokio::test]
async fn good_revoked_and_held_certificates_are_told_apart() {
    let ca = Ca::new("one");
    ca.index.apply(&[
        (serial(2), record(revoked(Reason::KeyCompromise), NOW.unix() - 5)),
        (serial(3), record(revoked(Reason::CertificateHold), NOW.unix() - 5)),
        (serial(4), record(revoked(Reason::Unspecified), NOW.unix() - 5)),
    ]);
    let (responder, _) = responder(&[&ca], policy());
    assert_eq!(ask(&responder, &ca, serial(1), NOW).await.unwrap().status, CertStatus::Good);
    for (n, reason) in [(2, Reason::KeyCompromise), (3, Reason::CertificateHold), (4, Reason::Unspecified)] {
        let CertStatus::Revoked(said) = ask(&responder, &ca, serial(n), NOW).await.unwrap().status else {
            panic!("{n} is revoked");
        };
        assert_eq!((said.reason, said.at), (reason, NOW - Duration::from_secs(9)), "{n}");
    }
}

#[tokio::test]
async fn ocsp_33_a_serial_that_was_never_issued_is_never_good() {
    let ca = Ca::new("one");
    let (unauthorized, _) = responder(&[&ca], policy());
    assert!(failed_with(ask(&unauthorized, &ca, serial(9), NOW).await, Failure::Unauthorized));
    let (unknown, _) = responder(&[&ca], Policy { not_issued: NotIssued::Unknown, ..policy() });
    let said = ask(&unknown, &ca, serial(9), NOW).await.unwrap();
    assert_eq!(said.status, CertStatus::Unknown);
    assert!(said.next_update <= NOW + Duration::from_secs(60), "it must not be kept: {}", said.next_update);
    ca.index.apply(&[(serial(9), record(Status::Good, NOW.unix()))]);
    assert_eq!(ask(&unknown, &ca, serial(9), NOW).await.unwrap().status, CertStatus::Good, "a new certificate");
}

#[tokio::test]
async fn sec_17_a_serial_of_21_octets_is_nobodys() {
    let ca = Ca::new("one");
    let content: Vec<u8> = std::iter::once(0).chain([0xaa; 20]).collect();
    let cert_id = encode_cert_id(&ca.issuer.hashes(HashAlgorithm::Sha256), &content);
    let (responder, _) = responder(&[&ca], Policy { not_issued: NotIssued::Unknown, ..policy() });
    let reply = responder.answer(Client::LOCAL, None, &encode(&cert_id, None)).await;
    let said = check(&reply.body, &cert_id, None, &ca.issuer.certificate, NOW).unwrap();
    assert_eq!(said.status, CertStatus::Unknown);
}

#[tokio::test]
async fn ocsp_64_a_nonce_comes_back_and_the_reply_is_nobody_elses() {
    let ca = Ca::new("one");
    let cert_id = ca.cert_id(serial(1));
    let (live, _) = responder(&[&ca], policy());
    let reply = live.answer(Client::LOCAL, None, &encode(&cert_id, Some(&[7; 32]))).await;
    assert!(check(&reply.body, &cert_id, Some(&[7; 32]), &ca.issuer.certificate, NOW).unwrap().nonce_echoed);
    assert!(matches!(
        check(&reply.body, &cert_id, Some(&[8; 32]), &ca.issuer.certificate, NOW),
        Err(CheckError::Nonce)
    ));
    assert_eq!(reply.caching, Caching::NoStore);
    let (off, _) = responder(&[&ca], Policy { nonce: NoncePolicy::Off, ..policy() });
    let reply = off.answer(Client::LOCAL, None, &encode(&cert_id, Some(&[7; 32]))).await;
    assert!(!check(&reply.body, &cert_id, Some(&[7; 32]), &ca.issuer.certificate, NOW).unwrap().nonce_echoed);
    assert!(matches!(reply.caching, Caching::Public { .. }));
}

#[tokio::test]
async fn two_cas_answer_each_for_its_own_and_the_path_narrows() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    two.index.apply(&[(serial(1), record(revoked(Reason::Superseded), NOW.unix() - 5))]);
    let (responder, _) = responder(&[&one, &two], policy());
    assert_eq!(ask(&responder, &one, serial(1), NOW).await.unwrap().status, CertStatus::Good);
    assert!(matches!(ask(&responder, &two, serial(1), NOW).await.unwrap().status, CertStatus::Revoked(_)));
    let request = encode(&two.cert_id(serial(1)), None);
    assert_eq!(&responder.answer(Client::LOCAL, Some("one"), &request).await.body[..], Failure::Unauthorized.der());
    assert!(responder.answer(Client::LOCAL, Some("two"), &request).await.body.len() > 100);
    assert!(failed_with(ask(&responder, &Ca::new("three"), serial(1), NOW).await, Failure::Unauthorized));
}

/// A request about all of `ids`.
fn request_of(ids: &[Vec<u8>]) -> Vec<u8> {
    use crate::der::{element, tag};
    let singles: Vec<_> = ids.iter().map(|id| element(tag::SEQUENCE, &[id])).collect();
    element(tag::SEQUENCE, &[&element(tag::SEQUENCE, &[&element(tag::SEQUENCE, &[&singles.concat()])])])
}

#[tokio::test]
async fn ocsp_09_several_certificates_of_one_issuer_get_one_answer_and_of_two_issuers_none() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    one.index.apply(&[(serial(2), record(revoked(Reason::Superseded), NOW.unix() - 5))]);
    let (responder, _) = responder(&[&one, &two], policy());
    let ids = [one.cert_id(serial(1)), one.cert_id(serial(2)), one.cert_id(serial(1))];
    let reply = responder.answer(Client::LOCAL, None, &request_of(&ids)).await;
    let response::Parsed::Basic(basic) = response::parse(&reply.body).unwrap() else { panic!("an error") };
    let asked: Vec<_> = basic.singles.iter().map(|single| single.cert_id).collect();
    assert_eq!(asked, ids);
    assert!(matches!(basic.singles[1].status, CertStatus::Revoked(_)));
    let mixed = [one.cert_id(serial(1)), two.cert_id(serial(1))];
    assert_eq!(&responder.answer(Client::LOCAL, None, &request_of(&mixed)).await.body[..], Failure::Unauthorized.der());
    let absent = [one.cert_id(serial(1)), one.cert_id(serial(99))];
    assert_eq!(
        &responder.answer(Client::LOCAL, None, &request_of(&absent)).await.body[..],
        Failure::Unauthorized.der()
    );
}

#[tokio::test]
async fn promise_2_the_dates_never_claim_more_than_is_known() {
    let ca = Ca::new("one");
    let (responder, clock) = responder(&[&ca], policy());
    let said = ask(&responder, &ca, serial(1), NOW).await.unwrap();
    assert!(said.this_update < NOW && said.this_update > NOW - policy().lifetime / 2 - Duration::from_secs(2));
    assert_eq!(said.next_update, said.this_update + policy().lifetime);
    assert_eq!(said.produced_at, NOW);
    // Revoked in this very second: dated from it, and later than what was signed before.
    ca.index.apply(&[(serial(1), record(revoked(Reason::Superseded), NOW.unix()))]);
    let after = ask(&responder, &ca, serial(1), NOW).await.unwrap();
    assert!(matches!(after.status, CertStatus::Revoked(_)));
    assert_eq!(after.this_update, NOW);
    // The same answer until half its life is over, then a new one.
    let later = NOW + Duration::from_secs(1_000);
    clock.set(later);
    ca.index.vouch(later);
    let halfway = ask(&responder, &ca, serial(1), later).await.unwrap();
    assert!(halfway.this_update <= later && halfway.next_update > later);
}

#[tokio::test]
async fn promise_2_a_second_change_within_one_second_waits_for_the_next_and_is_dated_in_it() {
    let compromised = Revocation { at: NOW, reason: Reason::CaCompromise, invalidity_date: None };
    for ca_revoked in [None, Some(compromised)] {
        let ca = Ca::new("one");
        let (responder, clock) = responder(&[&ca], Policy { ca_revoked, ..policy() });
        ca.index.apply(&[(serial(1), record(revoked(Reason::CertificateHold), NOW.unix()))]);
        let first = ask(&responder, &ca, serial(1), NOW).await.unwrap();
        assert_eq!(first.this_update, NOW);
        // As the feed dates it.
        let next = NOW + Duration::from_secs(1);
        ca.index.apply(&[(serial(1), record(revoked(Reason::KeyCompromise), next.unix()))]);
        for ids in [vec![ca.cert_id(serial(1))], vec![ca.cert_id(serial(1)), ca.cert_id(serial(2))]] {
            clock.set(NOW);
            let request = request_of(&ids);
            let early = responder.answer(Client::LOCAL, None, &request);
            let early = tokio::time::timeout(Duration::from_millis(50), early).await;
            assert!(early.is_err(), "nothing is said before its second");
        }
        let (second, ()) = tokio::join!(ask(&responder, &ca, serial(1), next), async { clock.set(next) });
        let second = second.unwrap();
        assert!(matches!(second.status, CertStatus::Revoked(revocation) if revocation.reason == Reason::KeyCompromise));
        assert_eq!((second.this_update, second.produced_at), (next, next));
    }
}

#[tokio::test]
async fn promise_2_without_the_database_only_revoked_is_signed_and_what_was_signed_goes_on() {
    let ca = Ca::new("one");
    ca.index.apply(&[
        (serial(2), record(Status::Good, 0)),
        (serial(3), record(revoked(Reason::Superseded), NOW.unix() - 5)),
    ]);
    let (responder, clock) = responder(&[&ca], policy());
    let signed = ask(&responder, &ca, serial(1), NOW).await.unwrap();
    let stale = NOW + Duration::from_secs(61);
    clock.set(stale);
    let again = ask(&responder, &ca, serial(1), stale).await.unwrap();
    assert_eq!((again.status, again.produced_at), (CertStatus::Good, signed.produced_at));
    assert!(failed_with(ask(&responder, &ca, serial(2), stale).await, Failure::TryLater));
    assert!(matches!(ask(&responder, &ca, serial(3), stale).await.unwrap().status, CertStatus::Revoked(_)));
    let lapsed = signed.next_update;
    clock.set(lapsed);
    assert!(failed_with(ask(&responder, &ca, serial(1), lapsed).await, Failure::TryLater), "promise 3");
}

#[tokio::test]
async fn promise_13_what_was_learned_by_a_clock_that_was_ahead_is_told_and_what_it_vouched_for_is_not() {
    let ca = Ca::new("one");
    let ahead = NOW.unix() + 3_600;
    ca.index
        .apply(&[(serial(2), record(revoked(Reason::Superseded), ahead)), (serial(3), record(Status::Good, ahead))]);
    let of_ca = Revocation { at: NOW, reason: Reason::CaCompromise, invalidity_date: None };
    let (of_revoked_ca, _) = responder(&[&ca], Policy { ca_revoked: Some(of_ca), ..policy() });
    let (responder, _) = responder(&[&ca], policy());
    for n in [2, 3] {
        let said = ask(&responder, &ca, serial(n), NOW).await.unwrap();
        assert_eq!(matches!(said.status, CertStatus::Revoked(_)), n == 2);
        assert_eq!(said.this_update, NOW, "later than what was said before");
    }
    assert!(matches!(ask(&of_revoked_ca, &ca, serial(2), NOW).await.unwrap().status, CertStatus::Revoked(_)));
    // Whether the database can be read nobody knows before the hour is over.
    ca.index.vouch(Time::from_unix(ahead));
    assert!(failed_with(ask(&responder, &ca, serial(1), NOW).await, Failure::TryLater));
    let said = ask(&responder, &ca, serial(2), NOW).await.unwrap();
    assert!(matches!(said.status, CertStatus::Revoked(_)) && said.this_update <= NOW);
}

#[tokio::test]
async fn promise_12_before_the_first_load_is_done_only_revoked_is_answered() {
    let ca = Ca::new("one");
    let index = Arc::new(Index::new());
    index.load(vec![
        (serial(1), record(Status::Good, 0)),
        (serial(2), record(revoked(Reason::Superseded), NOW.unix() - 5)),
    ]);
    let ca = Ca { index, ..ca };
    let (responder, _) = responder(&[&ca], Policy { not_issued: NotIssued::Unknown, ..policy() });
    for n in [1, 9] {
        assert!(failed_with(ask(&responder, &ca, serial(n), NOW).await, Failure::TryLater), "{n}");
    }
    assert!(matches!(ask(&responder, &ca, serial(2), NOW).await.unwrap().status, CertStatus::Revoked(_)));
}

#[tokio::test]
async fn promise_12_known_revocations_are_answered_however_long_the_database_is_away() {
    let known = [
        (serial(2), record(revoked(Reason::Superseded), NOW.unix() - 90 * 86_400)),
        (serial(3), record(revoked(Reason::CertificateHold), NOW.unix() - 90 * 86_400)),
    ];
    // The database was lost while the service ran, and: the service was restarted, and has not read it yet.
    for running in [true, false] {
        let ca = Ca::new("one");
        let ca = if running { ca } else { Ca { index: Arc::new(Index::new()), ..ca } };
        ca.index.load(known.to_vec());
        let (responder, clock) = responder(&[&ca], policy());
        for hours in [0, 3, 50] {
            let now = NOW + Duration::from_secs(hours * 3_600);
            clock.set(now);
            for n in [2, 3] {
                for _ in ["signed", "from the cache"] {
                    let said = ask(&responder, &ca, serial(n), now).await.unwrap();
                    assert!(matches!(said.status, CertStatus::Revoked(_)), "{n} after {hours} h");
                    assert!(said.this_update <= NOW && said.produced_at <= now, "promise 2");
                    assert!(now < said.next_update && said.next_update <= now + policy().lifetime);
                }
            }
        }
    }
}

#[tokio::test]
async fn ocsp_44_nothing_is_signed_outside_the_signers_validity() {
    for by_list in [false, true] {
        let ca = Ca::new("one");
        let (responder, clock) = responder(&[&ca], policy());
        let end = ca.delegate.not_after();
        let late = end - Duration::from_secs(60);
        clock.set(late);
        ca.index.vouch(late);
        if by_list {
            ca.index.hold_until(end + Duration::from_secs(86_400));
        }
        for _ in ["signed", "from the cache"] {
            assert_eq!(ask(&responder, &ca, serial(1), late).await.unwrap().next_update, end, "promise 3");
        }
        assert_eq!(responder.metrics.signatures.get(Purpose::Ocsp), 1);
        clock.set(end + Duration::from_secs(1));
        assert!(failed_with(ask(&responder, &ca, serial(1), late).await, Failure::TryLater));
    }
}

#[tokio::test]
async fn ocsp_37_a_revoked_ca_is_answered_for_all_day_where_a_list_of_yesterday_is_the_source() {
    let ca = Ca::new("one");
    ca.index.apply(&[(serial(2), record(revoked(Reason::Superseded), NOW.unix() - 5))]);
    ca.index.hold_until(NOW + Duration::from_secs(86_400));
    let compromised = Revocation { at: NOW, reason: Reason::CaCompromise, invalidity_date: None };
    let (responder, clock) = responder(&[&ca], Policy { ca_revoked: Some(compromised), ..policy() });
    for hours in [0, 2, 20] {
        let now = NOW + Duration::from_secs(hours * 3_600);
        clock.set(now);
        for n in [1, 2, 99] {
            let said = ask(&responder, &ca, serial(n), now).await.unwrap();
            assert!(matches!(said.status, CertStatus::Revoked(_)), "{n} after {hours} h");
            assert!(now < said.next_update && said.next_update <= now + policy().lifetime, "{n} after {hours} h");
        }
    }
}

#[tokio::test]
async fn http_15_caches_keep_an_answer_no_longer_than_it_is_certain() {
    let ca = Ca::new("one");
    ca.index.apply(&[
        (serial(2), record(revoked(Reason::Superseded), NOW.unix() - 5)),
        (serial(3), record(revoked(Reason::CertificateHold), NOW.unix() - 5)),
    ]);
    let (responder, _) = responder(&[&ca], policy());
    for (n, longest) in [(1, 60), (2, 1_800), (3, 30)] {
        let request = encode(&ca.cert_id(serial(n)), None);
        for _ in ["signed", "from the cache"] {
            let Caching::Public { max_age, next_update, .. } =
                responder.answer(Client::LOCAL, None, &request).await.caching
            else {
                panic!("it may be kept")
            };
            assert!(max_age <= longest, "{n}: {max_age}");
            assert!(NOW + Duration::from_secs(max_age.into()) < next_update);
        }
    }
}

#[test]
fn promise_4_no_answer_is_good_once_a_revocation_is_in_the_index() {
    let ca = Ca::new("one");
    for n in 2..=200 {
        ca.index.apply(&[(serial(n), record(Status::Good, 0))]);
    }
    let (responder, _) = responder(&[&ca], policy());
    let done = AtomicBool::new(false);
    let swapped: Vec<AtomicBool> = (0..=200).map(|_| AtomicBool::new(false)).collect();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                while !done.load(Ordering::SeqCst) {
                    for n in 2..=200_u8 {
                        let was_revoked = swapped[usize::from(n)].load(Ordering::SeqCst);
                        let said = runtime.block_on(ask(&responder, &ca, serial(n), NOW)).unwrap();
                        assert!(!was_revoked || said.status != CertStatus::Good, "{n} is revoked");
                    }
                }
            });
        }
        for n in 2..=200_u8 {
            ca.index.apply(&[(serial(n), record(revoked(Reason::KeyCompromise), NOW.unix()))]);
            swapped[usize::from(n)].store(true, Ordering::SeqCst);
            std::thread::yield_now();
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[tokio::test]
async fn ocsp_56_a_delegate_that_clients_would_refuse_is_refused_at_the_start() {
    let (ca, other) = (Ca::new("one"), Ca::new("two"));
    let with = |delegate: &Certificate, now| {
        let (issuer, index) = (Arc::clone(&ca.issuer), Arc::clone(&ca.index));
        Authority::new(issuer, index, vec![ca.credential(0, delegate)], policy(), now)
    };
    assert!(matches!(with(&other.delegate, NOW).unwrap_err(), DelegateError::NotIssuedByCa { .. }));
    assert!(matches!(with(&ca.issuer.certificate, NOW).unwrap_err(), DelegateError::NotForOcsp(_)));
    // Time alone is no reason not to start: there may be other issuers.
    let expired = ca.delegate.not_after() + Duration::from_secs(1);
    let tenure = |now| with(&ca.delegate, now).map(|authority| authority.look_after_signers(now).signs).unwrap();
    assert!(tenure(NOW) && !tenure(expired) && !tenure(ca.delegate.not_before() - Duration::from_secs(1)));
}

#[tokio::test]
async fn br_18_a_delegate_without_nocheck_is_refused_where_nocheck_is_required() {
    let ca = Ca::new("one");
    let (issuer, index) = (Arc::clone(&ca.issuer), Arc::clone(&ca.index));
    let strict = Policy { requires_nocheck: true, ..policy() };
    let refused = Authority::new(issuer, index, vec![ca.credential(0, &ca.delegate)], strict.clone(), NOW);
    assert!(matches!(refused, Err(DelegateError::NoCheck(_))));
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pki");
    let read = |name| Certificate::from_file_bytes(&std::fs::read(folder.join(name)).unwrap()).unwrap();
    let (certificate, delegate) = (read("ca-p256.pem"), read("ocsp-p256.pem"));
    let issuer = Arc::new(Issuer { name: "nocheck".parse().unwrap(), certificate });
    let now = delegate.not_before();
    Authority::new(issuer, Arc::clone(&ca.index), vec![ca.credential(0, &delegate)], strict, now).unwrap();
}

#[tokio::test]
async fn any_octet_changed_in_a_request_still_gets_a_well_formed_response() {
    let ca = Ca::new("one");
    let (responder, _) = responder(&[&ca], policy());
    let request = encode(&ca.cert_id(serial(1)), Some(&[7; 32]));
    for at in 0..request.len() {
        for change in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut bytes = request.clone();
            bytes[at] ^= change;
            let reply = responder.answer(Client::LOCAL, None, &bytes).await;
            assert!(response::parse(&reply.body).is_ok(), "octet {at} changed by {change:02x}");
        }
    }
}

async fn reply(responder: &Responder, ca: &Ca, serial: Serial) -> Reply {
    responder.answer(Client::LOCAL, None, &encode(&ca.cert_id(serial), None)).await
}

/// The extension with this OID among DER extensions: its value.
fn extension<'a>(extensions: &'a [u8], oid: &[u8]) -> Option<&'a [u8]> {
    let mut list = crate::der::Reader::new(extensions);
    while !list.is_empty() {
        let mut extension = list.nested(0x30).unwrap();
        let found = extension.element(6).unwrap().raw == oid;
        assert_eq!(extension.default_false(), Ok(false), "OCSP-71");
        let value = extension.value(4).unwrap();
        if found {
            return Some(value);
        }
    }
    None
}

const ARCHIVE_CUTOFF: &[u8] = &[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 6];
const CRL_ID: &[u8] = &[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 3];
const INVALIDITY_DATE: &[u8] = &[6, 3, 0x55, 0x1d, 0x18];
const CERT_HASH: &[u8] = &[6, 5, 0x2b, 0x24, 8, 3, 0x0d];
const EXTENDED_REVOKE: [u8; 17] = [0x30, 0x0f, 6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 9, 4, 2, 5, 0];

fn basic(reply: &Reply) -> response::Basic<'_> {
    let response::Parsed::Basic(basic) = response::parse(&reply.body).unwrap() else { panic!("an error") };
    basic
}

#[tokio::test]
async fn ocsp_35_what_was_never_issued_may_be_revoked_on_hold_since_1970() {
    let ca = Ca::new("one");
    let crl_url = Some("http://status.example/crl/one.crl".into());
    let (responder, _) = responder(&[&ca], Policy { not_issued: NotIssued::Revoked, crl_url, ..policy() });
    let said = reply(&responder, &ca, serial(9)).await;
    let single = basic(&said).singles[0];
    let never = Revocation { at: Time::from_unix(0), reason: Reason::CertificateHold, invalidity_date: None };
    assert_eq!((single.status, single.extensions), (CertStatus::Revoked(never), &[0_u8; 0][..]));
    assert!(said.body.windows(17).any(|window| window == EXTENDED_REVOKE));
    let Caching::Public { max_age, .. } = said.caching else { panic!("it is signed") };
    assert!(max_age <= 60, "promise 1: {max_age}");
    let issued = reply(&responder, &ca, serial(1)).await;
    assert_eq!(basic(&issued).singles[0].status, CertStatus::Good);
    // From the cache too, under the same signature.
    let again = reply(&responder, &ca, serial(1)).await;
    assert_eq!(again.body, issued.body);
    check(&again.body, &ca.cert_id(serial(1)), None, &ca.issuer.certificate, NOW).unwrap();
}

#[tokio::test]
async fn rev_14_a_certificate_that_has_not_begun_is_answered_by_its_status_or_as_unknown() {
    let ca = Ca::new("one");
    let begins = NOW + Duration::from_secs(30);
    ca.index.apply(&[(serial(2), Record { not_before: begins, ..record(Status::Good, 0) })]);
    let (by_status, _) = responder(&[&ca], policy());
    assert_eq!(ask(&by_status, &ca, serial(2), NOW).await.unwrap().status, CertStatus::Good);
    let (unknown, clock) = responder(&[&ca], Policy { not_yet_valid: NotYetValid::Unknown, ..policy() });
    let said = ask(&unknown, &ca, serial(2), NOW).await.unwrap();
    assert_eq!(said.status, CertStatus::Unknown);
    assert!(said.next_update < begins, "what is said until it begins must not outlast that");
    clock.set(begins);
    assert_eq!(ask(&unknown, &ca, serial(2), begins).await.unwrap().status, CertStatus::Good);
}

#[tokio::test]
async fn rev_20_expired_certificates_are_answered_for_as_long_as_they_are_kept() {
    let ca = Ca::new("one");
    let year = Duration::from_secs(365 * 86_400);
    let ended = |ago| Record { not_after: NOW - ago, ..record(revoked(Reason::Superseded), NOW.unix() - 5) };
    ca.index.apply(&[(serial(2), ended(year)), (serial(3), ended(year * 3))]);
    let kept = Policy { retention: Some(year * 2), archive_cutoff: true, not_issued: NotIssued::Unknown, ..policy() };
    let (two_years, _) = responder(&[&ca], kept.clone());
    let said = reply(&two_years, &ca, serial(2)).await;
    let cutoff = [&[0x18, 0x0f][..], &(NOW - year * 2).generalized()].concat();
    assert_eq!(extension(basic(&said).singles[0].extensions, ARCHIVE_CUTOFF), Some(&cutoff[..]));
    // Promise 1: purged is unauthorized, also where absent serials are signed.
    assert!(failed_with(ask(&two_years, &ca, serial(3), NOW).await, Failure::Unauthorized));
    let (forever, _) = responder(&[&ca], Policy { retention: None, ..kept });
    let said = reply(&forever, &ca, serial(3)).await;
    let cutoff = [&[0x18, 0x0f][..], &ca.issuer.certificate.not_before().generalized()].concat();
    assert_eq!(extension(basic(&said).singles[0].extensions, ARCHIVE_CUTOFF), Some(&cutoff[..]), "ETSI-22");
}

#[tokio::test]
async fn ch_01_the_hash_of_the_certificate_is_told_once_it_is_known_and_never_spliced_into_an_older_answer() {
    let ca = Ca::new("one");
    let (responder, _) = responder(&[&ca], Policy { cert_hash: true, ..policy() });
    let before = reply(&responder, &ca, serial(1)).await;
    assert_eq!(extension(basic(&before).singles[0].extensions, CERT_HASH), None, "CH-03");
    ca.index.apply(&[(serial(1), Record { sha256: Some([7; 32]), ..record(Status::Good, 0) })]);
    for _ in ["signed", "from the cache"] {
        let after = reply(&responder, &ca, serial(1)).await;
        let hash = extension(basic(&after).singles[0].extensions, CERT_HASH).unwrap();
        assert!(hash.ends_with(&[7; 32]));
        check(&after.body, &ca.cert_id(serial(1)), None, &ca.issuer.certificate, NOW).unwrap();
    }
}

#[tokio::test]
async fn ocsp_72_76_a_revocation_names_its_list_and_invalidity_date_where_that_is_wanted() {
    let ca = Ca::new("one");
    let invalidity_date = Some(NOW - Duration::from_secs(7_200));
    let compromised = Revocation { at: NOW, reason: Reason::KeyCompromise, invalidity_date };
    ca.index.apply(&[(serial(2), record(Status::Revoked(compromised), NOW.unix()))]);
    let crl_url = Some("http://status.example/crl/one.crl".into());
    let (telling, _) = responder(&[&ca], Policy { invalidity_date: true, crl_url, ..policy() });
    let said = reply(&telling, &ca, serial(2)).await;
    let extensions = basic(&said).singles[0].extensions;
    assert!(
        extension(extensions, INVALIDITY_DATE).unwrap().ends_with(&(NOW - Duration::from_secs(7_200)).generalized())
    );
    assert!(extension(extensions, CRL_ID).unwrap().ends_with(b"http://status.example/crl/one.crl"));
    let good = reply(&telling, &ca, serial(1)).await;
    assert!(basic(&good).singles[0].extensions.is_empty());
    let (silent, _) = responder(&[&ca], policy());
    assert!(basic(&reply(&silent, &ca, serial(2)).await).singles[0].extensions.is_empty());
}

#[tokio::test]
async fn ocsp_37_when_the_ca_is_revoked_so_is_every_certificate_of_it() {
    let ca = Ca::new("one");
    ca.index.apply(&[
        (serial(2), record(revoked(Reason::Superseded), NOW.unix() - 5)),
        (serial(3), record(revoked(Reason::CertificateHold), NOW.unix() - 5)),
    ]);
    let (before, _) = responder(&[&ca], policy());
    let good = ask(&before, &ca, serial(1), NOW).await.unwrap();
    let compromised = Revocation { at: NOW, reason: Reason::CaCompromise, invalidity_date: None };
    let (after, _) = responder(&[&ca], Policy { ca_revoked: Some(compromised), ..policy() });
    for n in [1, 3, 99] {
        let said = ask(&after, &ca, serial(n), NOW).await.unwrap();
        assert_eq!(said.status, CertStatus::Revoked(compromised), "{n}");
        assert!(said.this_update > good.this_update, "promise 2");
    }
    let CertStatus::Revoked(earlier) = ask(&after, &ca, serial(2), NOW).await.unwrap().status else { panic!() };
    assert_eq!(earlier.reason, Reason::Superseded, "what was revoked before stays as it was");
}

#[tokio::test]
async fn etsi_24_at_the_end_of_a_cas_life_answers_never_lapse_and_belong_to_everybody() {
    let ca = Ca::new("one");
    let (responder, _) = responder(&[&ca], Policy { end_of_life: true, ..policy() });
    let cert_id = ca.cert_id(serial(1));
    let said = responder.answer(Client::LOCAL, None, &encode(&cert_id, Some(&[7; 32]))).await;
    let verified = check(&said.body, &cert_id, Some(&[7; 32]), &ca.issuer.certificate, NOW).unwrap();
    assert_eq!((verified.next_update, verified.nonce_echoed), (Time::MAX, false));
}

#[tokio::test]
async fn ocsp_12_a_signer_is_named_by_name_where_old_clients_need_it() {
    let ca = Ca::new("one");
    let (responder, _) = responder(&[&ca], Policy { responder_id: ResponderId::ByName, ..policy() });
    let said = reply(&responder, &ca, serial(1)).await;
    assert_eq!(basic(&said).responder_id, crate::der::element(0xa1, &[ca.delegate.subject()]));
    check(&said.body, &ca.cert_id(serial(1)), None, &ca.issuer.certificate, NOW).unwrap();
}

/// A credential of `ca` with a key of `algorithm`, valid from and until so many seconds after [`NOW`].
fn another(ca: &Ca, id: u32, algorithm: &'static rcgen::SignatureAlgorithm, from: i64, until: i64) -> Credential {
    let at = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs((NOW.unix() + seconds) as u64);
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = params("another");
    (params.not_before, params.not_after) = (at(from), at(until));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    let made = params.signed_by(&key, &ca.signing).unwrap();
    let delegate = Certificate::from_der(made.der()).unwrap();
    let file = key_file(&key);
    let signer = Arc::new(Signer::from_file(file.path(), &delegate).unwrap());
    Credential::new(id, signer, Some(delegate))
}

const DAY: i64 = 86_400;

#[tokio::test]
async fn ocsp_58_the_next_delegate_takes_over_when_its_time_has_come_and_cached_answers_stay_with_their_signer() {
    let ca = Ca::new("one");
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let credentials = vec![
        another(&ca, 1, p256, -30 * DAY, DAY),
        another(&ca, 2, p256, 3_600, 30 * DAY),
        another(&ca, 3, p256, -60 * DAY, -DAY),
    ];
    let (issuer, index) = (Arc::clone(&ca.issuer), Arc::clone(&ca.index));
    let authority = Authority::new(issuer, index, credentials, policy(), NOW).unwrap();
    let clock = Arc::new(ManualClock::new(NOW));
    let responder =
        Responder::new(vec![authority], 1 << 20, Limits::default(), Arc::clone(&clock) as _, Metrics::new());
    let mut signers = Vec::new();
    // Before it begins, in its first minutes, after them, after the end of the old one.
    for seconds in [0, 3_600 + 60, 3_600 + 301, 2 * DAY] {
        let now = NOW + Duration::from_secs(seconds as u64);
        clock.set(now);
        ca.index.vouch(now);
        for _ in ["signed", "from the cache"] {
            let said = reply(&responder, &ca, serial(1)).await;
            check(&said.body, &ca.cert_id(serial(1)), None, &ca.issuer.certificate, now).unwrap();
            signers.push(basic(&said).responder_id.to_vec());
        }
    }
    let old = signers[0].clone();
    assert_eq!(
        signers.iter().map(|signer| *signer == old).collect::<Vec<_>>(),
        [true, true, true, true, false, false, false, false]
    );
}

#[tokio::test]
async fn ocsp_56_a_delegate_that_its_ca_has_revoked_signs_no_more_and_nothing_that_it_signed_is_given() {
    let ca = Ca::new("one");
    let made = |credentials: Vec<Credential>| {
        let (issuer, index) = (Arc::clone(&ca.issuer), Arc::clone(&ca.index));
        let authority = Authority::new(issuer, index, credentials, policy(), NOW).unwrap();
        let clock = Arc::new(ManualClock::new(NOW));
        Responder::new(vec![authority], 1 << 20, Limits::default(), clock, Metrics::new())
    };
    let ed25519 = another(&ca, 2, &rcgen::PKCS_ED25519, -DAY, DAY);
    let second = ed25519.delegate.clone().unwrap();
    let running = made(vec![ca.credential(1, &ca.delegate), ed25519]);
    let mut signers = Vec::new();
    let first = ca.delegate.serial();
    let held = revoked(Reason::CertificateHold);
    for status in [Status::Good, held, Status::Good, held] {
        ca.index.apply(&[(first, record(status, NOW.unix() - 5))]);
        let looked = running.look_after_signers(NOW).next().unwrap();
        assert_eq!(looked.revoked.len(), usize::from(status != Status::Good));
        assert!(looked.until > NOW);
        for _ in ["signed", "from the cache"] {
            let said = reply(&running, &ca, serial(1)).await;
            check(&said.body, &ca.cert_id(serial(1)), None, &ca.issuer.certificate, NOW).unwrap();
            signers.push(basic(&said).algorithm.len());
        }
    }
    let (ecdsa, ed25519) = (signers[0], signers[2]);
    assert_ne!(ecdsa, ed25519);
    assert_eq!(signers, [ecdsa, ecdsa, ed25519, ed25519, ecdsa, ecdsa, ed25519, ed25519]);
    // As a restart finds it, and then none is left.
    let restarted = made(vec![ca.credential(3, &ca.delegate)]);
    assert!(failed_with(ask(&restarted, &ca, serial(1), NOW).await, Failure::TryLater));
    ca.index.apply(&[(second.serial(), record(revoked(Reason::KeyCompromise), NOW.unix() - 5))]);
    let looked = running.look_after_signers(NOW).next().unwrap();
    assert!(looked.revoked.len() == 2 && looked.until < NOW);
    assert!(failed_with(ask(&running, &ca, serial(1), NOW).await, Failure::TryLater));
}

#[tokio::test]
async fn ocsp_78_a_client_gets_the_algorithm_that_it_prefers_if_there_is_a_key() {
    let ca = Ca::new("one");
    let credentials = vec![
        another(&ca, 1, &rcgen::PKCS_ECDSA_P256_SHA256, -DAY, DAY),
        another(&ca, 2, &rcgen::PKCS_ED25519, -DAY, DAY),
    ];
    let (issuer, index) = (Arc::clone(&ca.issuer), Arc::clone(&ca.index));
    let authority = Authority::new(issuer, index, credentials, policy(), NOW).unwrap();
    let clock = Arc::new(ManualClock::new(NOW));
    let responder = Responder::new(vec![authority], 1 << 20, Limits::default(), clock, Metrics::new());
    let ecdsa: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let (ed25519, unknown): (&[u8], &[u8]) = (&[0x30, 5, 6, 3, 0x2b, 0x65, 0x70], &[0x30, 5, 6, 3, 0x2b, 0x65, 0x71]);
    for (preferred, expected) in
        [(&[][..], ecdsa), (&[ed25519], ed25519), (&[unknown, ed25519, ecdsa], ed25519), (&[unknown], ecdsa)]
    {
        use crate::der::{element, extension, tag};
        let list: Vec<_> = preferred.iter().map(|algorithm| element(tag::SEQUENCE, &[algorithm])).collect();
        let value = element(tag::SEQUENCE, &[&list.concat()]);
        let extension = extension(&[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 8], false, &value);
        let cert_id = ca.cert_id(serial(1));
        let requests = element(tag::SEQUENCE, &[&element(tag::SEQUENCE, &[&cert_id])]);
        let extensions = element(tag::explicit(2), &[&element(tag::SEQUENCE, &[&extension])]);
        let request = element(tag::SEQUENCE, &[&element(tag::SEQUENCE, &[&requests, &extensions])]);
        let said = responder.answer(Client::LOCAL, None, &request).await;
        assert_eq!(basic(&said).algorithm, expected, "{preferred:02x?}");
        check(&said.body, &cert_id, None, &ca.issuer.certificate, NOW).unwrap();
    }
}

#[tokio::test]
async fn rev_14_a_certificate_revoked_before_it_begins_is_revoked_whatever_is_said_of_early_ones() {
    let ca = Ca::new("one");
    let not_before = NOW + Duration::from_secs(86_400);
    ca.index.apply(&[
        (serial(2), Record { not_before, ..record(Status::Good, 0) }),
        (serial(3), Record { not_before, ..record(revoked(Reason::KeyCompromise), NOW.unix() - 5) }),
    ]);
    let (responder, _) = responder(&[&ca], Policy { not_yet_valid: NotYetValid::Unknown, ..policy() });
    assert_eq!(ask(&responder, &ca, serial(2), NOW).await.unwrap().status, CertStatus::Unknown);
    assert!(matches!(ask(&responder, &ca, serial(3), NOW).await.unwrap().status, CertStatus::Revoked(_)), "OCSP-39");
}
