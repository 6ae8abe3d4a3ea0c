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
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const NOW: Time = Time::from_unix(1_795_000_000);

/// One CA with a delegate, and what its authority needs.
struct Ca {
    issuer: Arc<Issuer>,
    index: Arc<Index>,
    signer: Arc<Signer>,
    delegate: Certificate,
    authority: rcgen::Issuer<'static, KeyPair>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2036, 1, 1);
    params
}

/// A new delegate with a key of its own.
fn delegate_of(authority: &rcgen::Issuer<'static, KeyPair>) -> (Arc<Signer>, Certificate) {
    let key = KeyPair::generate().unwrap();
    let mut delegate = params("delegate");
    delegate.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    let delegate = delegate.signed_by(&key, authority).unwrap();
    let delegate = Certificate::from_der(delegate.der()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pem");
    std::fs::write(&file, key.serialize_pem()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    (Arc::new(Signer::from_file(&file, &delegate).unwrap()), delegate)
}

impl Ca {
    fn new(name: &str) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = params(name);
        ca.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        let certificate = ca.self_signed(&ca_key).unwrap();
        let authority = rcgen::Issuer::new(ca, ca_key);
        let (signer, delegate) = delegate_of(&authority);
        let certificate = Certificate::from_der(certificate.der()).unwrap();
        let issuer = Arc::new(Issuer { name: name.parse().unwrap(), certificate });
        let index = Arc::new(Index::new());
        index.apply(&[(serial(1), record(Status::Good, 0))]);
        index.vouch(NOW);
        index.set_complete();
        Self { issuer, index, signer, delegate, authority }
    }

    fn authority(&self, id: u32, policy: Policy) -> Authority {
        let (issuer, index) = (Arc::clone(&self.issuer), Arc::clone(&self.index));
        Authority::new(id, issuer, index, Arc::clone(&self.signer), Some(&self.delegate), policy, NOW).unwrap()
    }

    fn cert_id(&self, serial: Serial) -> Vec<u8> {
        encode_cert_id(&self.issuer.hashes(HashAlgorithm::Sha1), serial.as_bytes())
    }
}

const POLICY: Policy = Policy {
    lifetime: Duration::from_secs(3_600),
    max_age_good: Duration::from_secs(60),
    max_age_uncertain: Duration::from_secs(30),
    not_issued: NotIssued::Unauthorized,
    nonce: NoncePolicy::Live,
    max_staleness: Duration::from_secs(60),
    live_rate: LiveRate { issuer: 100_000, client: 100_000 },
    presign: Presign::Hot,
};

fn serial(n: u8) -> Serial {
    Serial::from_content(&[n; 16]).unwrap()
}

fn record(status: Status, since: i64) -> Record {
    let not_before = Time::from_unix(1_780_000_000);
    let not_after = not_before + Duration::from_secs(365 * 86_400);
    Record { not_before, not_after, status, since: Time::from_unix(since) }
}

fn revoked(reason: Reason) -> Status {
    Status::Revoked(Revocation { at: NOW - Duration::from_secs(9), reason, invalidity_date: None })
}

/// A responder for `cas`, and the clock it goes by.
fn responder(cas: &[&Ca], policy: Policy) -> (Responder, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(NOW));
    let authorities = cas.iter().zip(0..).map(|(ca, id)| ca.authority(id, policy)).collect();
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
    let (responder, _) = responder(&[&ca], POLICY);
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
    let (unauthorized, _) = responder(&[&ca], POLICY);
    assert!(failed_with(ask(&unauthorized, &ca, serial(9), NOW).await, Failure::Unauthorized));
    let (unknown, _) = responder(&[&ca], Policy { not_issued: NotIssued::Unknown, ..POLICY });
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
    let (responder, _) = responder(&[&ca], Policy { not_issued: NotIssued::Unknown, ..POLICY });
    let reply = responder.answer(Client::LOCAL, None, &encode(&cert_id, None)).await;
    let said = check(&reply.body, &cert_id, None, &ca.issuer.certificate, NOW).unwrap();
    assert_eq!(said.status, CertStatus::Unknown);
}

#[tokio::test]
async fn ocsp_64_a_nonce_comes_back_and_the_reply_is_nobody_elses() {
    let ca = Ca::new("one");
    let cert_id = ca.cert_id(serial(1));
    let (live, _) = responder(&[&ca], POLICY);
    let reply = live.answer(Client::LOCAL, None, &encode(&cert_id, Some(&[7; 32]))).await;
    assert!(check(&reply.body, &cert_id, Some(&[7; 32]), &ca.issuer.certificate, NOW).unwrap().nonce_echoed);
    assert!(matches!(
        check(&reply.body, &cert_id, Some(&[8; 32]), &ca.issuer.certificate, NOW),
        Err(CheckError::Nonce)
    ));
    assert_eq!(reply.caching, Caching::NoStore);
    let (off, _) = responder(&[&ca], Policy { nonce: NoncePolicy::Off, ..POLICY });
    let reply = off.answer(Client::LOCAL, None, &encode(&cert_id, Some(&[7; 32]))).await;
    assert!(!check(&reply.body, &cert_id, Some(&[7; 32]), &ca.issuer.certificate, NOW).unwrap().nonce_echoed);
    assert!(matches!(reply.caching, Caching::Public { .. }));
}

#[tokio::test]
async fn two_cas_answer_each_for_its_own_and_the_path_narrows() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    two.index.apply(&[(serial(1), record(revoked(Reason::Superseded), NOW.unix() - 5))]);
    let (responder, _) = responder(&[&one, &two], POLICY);
    assert_eq!(ask(&responder, &one, serial(1), NOW).await.unwrap().status, CertStatus::Good);
    assert!(matches!(ask(&responder, &two, serial(1), NOW).await.unwrap().status, CertStatus::Revoked(_)));
    let request = encode(&two.cert_id(serial(1)), None);
    assert_eq!(&responder.answer(Client::LOCAL, Some("one"), &request).await.body[..], Failure::Unauthorized.der());
    assert!(responder.answer(Client::LOCAL, Some("two"), &request).await.body.len() > 100);
    assert!(failed_with(ask(&responder, &Ca::new("three"), serial(1), NOW).await, Failure::Unauthorized));
}

#[tokio::test]
async fn ocsp_09_several_certificates_of_one_issuer_get_one_answer_and_of_two_issuers_none() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    one.index.apply(&[(serial(2), record(revoked(Reason::Superseded), NOW.unix() - 5))]);
    let (responder, _) = responder(&[&one, &two], POLICY);
    let request = |ids: &[Vec<u8>]| {
        use crate::der::{element, tag};
        let singles: Vec<_> = ids.iter().map(|id| element(tag::SEQUENCE, &[id])).collect();
        element(tag::SEQUENCE, &[&element(tag::SEQUENCE, &[&element(tag::SEQUENCE, &[&singles.concat()])])])
    };
    let ids = [one.cert_id(serial(1)), one.cert_id(serial(2)), one.cert_id(serial(1))];
    let reply = responder.answer(Client::LOCAL, None, &request(&ids)).await;
    let response::Parsed::Basic(basic) = response::parse(&reply.body).unwrap() else { panic!("an error") };
    let asked: Vec<_> = basic.singles.iter().map(|single| single.cert_id).collect();
    assert_eq!(asked, ids);
    assert!(matches!(basic.singles[1].status, CertStatus::Revoked(_)));
    let mixed = [one.cert_id(serial(1)), two.cert_id(serial(1))];
    assert_eq!(&responder.answer(Client::LOCAL, None, &request(&mixed)).await.body[..], Failure::Unauthorized.der());
    let absent = [one.cert_id(serial(1)), one.cert_id(serial(99))];
    assert_eq!(&responder.answer(Client::LOCAL, None, &request(&absent)).await.body[..], Failure::Unauthorized.der());
}

#[tokio::test]
async fn promise_2_the_dates_never_claim_more_than_is_known() {
    let ca = Ca::new("one");
    let (responder, clock) = responder(&[&ca], POLICY);
    let said = ask(&responder, &ca, serial(1), NOW).await.unwrap();
    assert!(said.this_update < NOW && said.this_update > NOW - POLICY.lifetime / 2 - Duration::from_secs(2));
    assert_eq!(said.next_update, said.this_update + POLICY.lifetime);
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
async fn promise_2_without_the_database_only_revoked_is_signed_and_what_was_signed_goes_on() {
    let ca = Ca::new("one");
    ca.index.apply(&[
        (serial(2), record(Status::Good, 0)),
        (serial(3), record(revoked(Reason::Superseded), NOW.unix() - 5)),
    ]);
    let (responder, clock) = responder(&[&ca], POLICY);
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
async fn promise_12_before_the_first_load_is_done_only_revoked_is_answered() {
    let ca = Ca::new("one");
    let index = Arc::new(Index::new());
    index.load(vec![
        (serial(1), record(Status::Good, 0)),
        (serial(2), record(revoked(Reason::Superseded), NOW.unix() - 5)),
    ]);
    let ca = Ca { index, ..ca };
    let (responder, _) = responder(&[&ca], Policy { not_issued: NotIssued::Unknown, ..POLICY });
    for n in [1, 9] {
        assert!(failed_with(ask(&responder, &ca, serial(n), NOW).await, Failure::TryLater), "{n}");
    }
    assert!(matches!(ask(&responder, &ca, serial(2), NOW).await.unwrap().status, CertStatus::Revoked(_)));
}

#[tokio::test]
async fn ocsp_44_nothing_is_signed_outside_the_signers_validity() {
    let ca = Ca::new("one");
    let (responder, clock) = responder(&[&ca], POLICY);
    let end = ca.delegate.not_after();
    let late = end - Duration::from_secs(60);
    clock.set(late);
    ca.index.vouch(late);
    assert_eq!(ask(&responder, &ca, serial(1), late).await.unwrap().next_update, end, "promise 3");
    clock.set(end + Duration::from_secs(1));
    assert!(failed_with(ask(&responder, &ca, serial(1), late).await, Failure::TryLater));
}

#[tokio::test]
async fn http_15_caches_keep_an_answer_no_longer_than_it_is_certain() {
    let ca = Ca::new("one");
    ca.index.apply(&[
        (serial(2), record(revoked(Reason::Superseded), NOW.unix() - 5)),
        (serial(3), record(revoked(Reason::CertificateHold), NOW.unix() - 5)),
    ]);
    let (responder, _) = responder(&[&ca], POLICY);
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
    let (responder, _) = responder(&[&ca], POLICY);
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
        Authority::new(0, issuer, index, Arc::clone(&ca.signer), Some(delegate), POLICY, now).unwrap_err()
    };
    assert!(matches!(with(&other.delegate, NOW), DelegateError::NotIssuedByCa { .. }));
    assert!(matches!(with(&ca.issuer.certificate, NOW), DelegateError::NotForOcsp(_)));
    let expired = ca.delegate.not_after() + Duration::from_secs(1);
    assert!(matches!(with(&ca.delegate, expired), DelegateError::Expired { .. }));
}

#[tokio::test]
async fn any_octet_changed_in_a_request_still_gets_a_well_formed_response() {
    let ca = Ca::new("one");
    let (responder, _) = responder(&[&ca], POLICY);
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
