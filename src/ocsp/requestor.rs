//! Who may ask, where not everybody may: whether a request is signed by somebody who is trusted.
//!
//! Goes in: the signature of a request, and the certificates that the operator trusts. Comes out: whether one
//! of them, or a certificate that one of them issued, made it over the very octets of tbsRequest (RFC 6960
//! 4.1.2, OCSP-16). requestorName is not looked at: the certificate says who it is.
//!
//! Invariant: the work is bounded whatever the request carries (SEC-02): [`MOST_CERTIFICATES`] of its
//! certificates are read, a signature is verified only with a key that is trusted, and all but [`FREE`] of
//! these verifications are paid for (SEC-01).

use super::request::Signature;
use crate::der::{Reader, tag};
use crate::pki::{Certificate, Time};
use crate::sign::verify;
use thiserror::Error;

/// How many of the certificates in a request are looked at: the signer's and a chain above it.
const MOST_CERTIFICATES: usize = 4;

/// Verifications that cost nothing: of the requestor's certificate and of its request.
const FREE: usize = 2;

/// Why a signature does not open the door.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum RequestorError {
    /// Neither a trusted certificate nor one that a trusted one issued, valid now and not revoked, made it.
    #[error("nobody who is trusted has signed the request")]
    NotTrusted,
    /// Such a certificate came along, and its key did not make the signature.
    #[error("the signature of the request does not match its certificate")]
    Signature,
    /// Finding out takes more verifications than may be spent now.
    #[error("too many signatures of requests are being verified")]
    Overloaded,
}

/// The certificates whose holders may ask, and of the authorities whose subscribers may.
#[derive(Clone, Debug)]
pub struct Requestors {
    trusted: Vec<Certificate>,
}

impl Requestors {
    /// Trusts `trusted` themselves, and what those among them issue that are CAs.
    #[must_use]
    pub const fn new(trusted: Vec<Certificate>) -> Self {
        Self { trusted }
    }

    /// Whether a signature was made by somebody trusted, at `now`. `revoked` is asked about a certificate
    /// that a trusted CA issued; what it does not know counts as not revoked. `may_spend` is asked before each
    /// verification beyond the first two, as somebody needs who is trusted and sends no certificate along.
    ///
    /// # Errors
    /// [`RequestorError`].
    pub fn check(
        &self,
        signature: &Signature<'_>,
        now: Time,
        revoked: impl Fn(&Certificate) -> bool,
        mut may_spend: impl FnMut() -> bool,
    ) -> Result<(), RequestorError> {
        let mut free = FREE;
        let mut pay = || {
            let is_free = free > 0;
            free = free.saturating_sub(1);
            if is_free || may_spend() { Ok(()) } else { Err(RequestorError::Overloaded) }
        };
        let mut refused = RequestorError::NotTrusted;
        let mut certificates = Reader::new(signature.certificates);
        for _ in 0..MOST_CERTIFICATES {
            let Ok(element) = certificates.element(tag::SEQUENCE) else { break };
            let Ok(signer) = Certificate::from_der(element.raw) else { continue };
            if !revoked(&signer) && self.trusts(&signer, now, &mut pay)? {
                pay()?;
                if has_signed(&signer, signature) {
                    return Ok(());
                }
                refused = RequestorError::Signature;
            }
        }
        // certs is optional: a requestor whose own certificate is trusted need not send it.
        for trusted in self.trusted.iter().filter(|trusted| is_valid(trusted, now) && !revoked(trusted)) {
            pay()?;
            if has_signed(trusted, signature) {
                return Ok(());
            }
        }
        Err(refused)
    }

    fn trusts(
        &self,
        signer: &Certificate,
        now: Time,
        mut pay: impl FnMut() -> Result<(), RequestorError>,
    ) -> Result<bool, RequestorError> {
        if !is_valid(signer, now) || !signer.may_sign_data() {
            return Ok(false);
        }
        if self.trusted.iter().any(|trusted| trusted.der() == signer.der()) {
            return Ok(true);
        }
        let above = |ca: &&Certificate| ca.is_ca && is_valid(ca, now) && ca.subject() == signer.issuer();
        for ca in self.trusted.iter().filter(above) {
            pay()?;
            if verify::issued_by(signer, ca).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn is_valid(certificate: &Certificate, now: Time) -> bool {
    certificate.not_before() <= now && now <= certificate.not_after()
}

fn has_signed(signer: &Certificate, made: &Signature<'_>) -> bool {
    verify::signature(signer.spki(), made.algorithm, made.signed, made.value).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::request::{Limits, encode, encode_cert_id, parse};
    use super::*;
    use crate::der;
    use crate::pki::HashAlgorithm;
    use crate::pki::issuer::IssuerHashes;
    use crate::sign::Signer;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    /// A certificate with its key.
    struct Person {
        params: CertificateParams,
        key: KeyPair,
        certificate: Certificate,
        signer: Signer,
    }

    impl Person {
        fn new(name: &str, issuer: Option<&Self>) -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.not_before = rcgen::date_time_ymd(2026, 1, 1);
            params.not_after = rcgen::date_time_ymd(2027, 1, 1);
            if issuer.is_none() {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }
            let key = KeyPair::generate().unwrap();
            let made = match issuer {
                Some(issuer) => params.signed_by(&key, &Issuer::from_params(&issuer.params, &issuer.key)).unwrap(),
                None => params.self_signed(&key).unwrap(),
            };
            let certificate = Certificate::from_der(made.der()).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("key.pem");
            std::fs::write(&file, key.serialize_pem()).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            let signer = Signer::from_file(&file, &certificate).unwrap();
            Self { params, key, certificate, signer }
        }

        /// A request that this person signs, with these certificates.
        fn request(&self, certificates: &[&Certificate]) -> Vec<u8> {
            let hashes = IssuerHashes { algorithm: HashAlgorithm::Sha1, name: vec![1; 20], key: vec![2; 20] };
            let unsigned = encode(&encode_cert_id(&hashes, &[7]), None);
            let tbs = der::outer(&unsigned, tag::SEQUENCE).unwrap().rest().to_vec();
            let value = [&[0][..], &self.signer.sign(&tbs).unwrap()].concat();
            let certificates: Vec<_> = certificates.iter().map(|certificate| certificate.der()).collect();
            let certs = match certificates.len() {
                0 => Vec::new(),
                _ => der::element(tag::explicit(0), &[&der::element(tag::SEQUENCE, &certificates)]),
            };
            let parts = [self.signer.algorithm(), &der::element(tag::BIT_STRING, &[&value]), &certs];
            let signature = der::element(tag::explicit(0), &[&der::element(tag::SEQUENCE, &parts)]);
            der::element(tag::SEQUENCE, &[&tbs, &signature])
        }
    }

    const NOW: Time = Time::from_unix(1_795_000_000);

    fn check(trusted: &[&Person], request: &[u8], now: Time) -> Result<(), RequestorError> {
        let requestors = Requestors::new(trusted.iter().map(|person| person.certificate.clone()).collect());
        let request = parse(request, Limits::default()).unwrap();
        let revoked = |certificate: &Certificate| certificate.subject_text().contains("revoked");
        requestors.check(&request.signature.unwrap(), now, revoked, || true)
    }

    #[test]
    fn ocsp_16_a_trusted_certificate_and_what_a_trusted_ca_issued_may_ask() {
        let (ca, other) = (Person::new("CA", None), Person::new("other CA", None));
        let requestor = Person::new("requestor", Some(&ca));
        let with = requestor.request(&[&requestor.certificate]);
        let chain = requestor.request(&[&requestor.certificate, &ca.certificate]);
        let without = requestor.request(&[]);
        assert_eq!(check(&[&other, &ca], &with, NOW), Ok(()));
        assert_eq!(check(&[&other, &ca], &chain, NOW), Ok(()));
        assert_eq!(check(&[&requestor], &with, NOW), Ok(()));
        assert_eq!(check(&[&requestor], &without, NOW), Ok(()));
        assert_eq!(check(&[&ca], &without, NOW), Err(RequestorError::NotTrusted));
        assert_eq!(check(&[&other], &with, NOW), Err(RequestorError::NotTrusted));
        // Whoever is trusted as a requestor may not make others.
        let below = Person::new("below", Some(&requestor));
        assert_eq!(check(&[&requestor], &below.request(&[&below.certificate]), NOW), Err(RequestorError::NotTrusted));
    }

    #[test]
    fn ocsp_16_every_octet_of_tbs_request_is_covered() {
        let ca = Person::new("CA", None);
        let requestor = Person::new("requestor", Some(&ca));
        let request = requestor.request(&[&requestor.certificate]);
        // The serial number asked for, which encode() writes as the last octet of tbsRequest.
        let at = request.windows(3).position(|octets| octets == [2, 1, 7]).unwrap() + 2;
        let mut changed = request.clone();
        changed[at] = 8;
        assert_eq!(check(&[&ca], &changed, NOW), Err(RequestorError::Signature));
        // Somebody else's certificate does not help.
        let stolen = Person::new("thief", None).request(&[&requestor.certificate]);
        assert_eq!(check(&[&ca], &stolen, NOW), Err(RequestorError::Signature));
    }

    /// Of the request, its signature, or the certificate that came along.
    #[test]
    fn no_octet_can_be_changed_without_losing_the_way_in() {
        let ca = Person::new("CA", None);
        let requestor = Person::new("requestor", Some(&ca));
        let whole = requestor.request(&[&requestor.certificate]);
        let requestors = Requestors::new(vec![ca.certificate.clone()]);
        let opens = |bytes: &[u8]| {
            let request = parse(bytes, Limits::default()).ok();
            let signature = request.and_then(|request| request.signature);
            signature.is_some_and(|signature| requestors.check(&signature, NOW, |_| false, || true).is_ok())
        };
        assert!(opens(&whole));
        for at in 0..whole.len() {
            for bit in [1, 0x80] {
                let mut changed = whole.clone();
                changed[at] ^= bit;
                assert!(!opens(&changed), "octet {at}");
            }
        }
    }

    #[test]
    fn certificates_that_lapsed_or_are_revoked_open_nothing() {
        let ca = Person::new("CA", None);
        let requestor = Person::new("requestor", Some(&ca));
        let request = requestor.request(&[&requestor.certificate]);
        let year = Duration::from_secs(366 * 86_400);
        for now in [NOW - year, NOW + year] {
            assert_eq!(check(&[&ca, &requestor], &request, now), Err(RequestorError::NotTrusted));
        }
        let revoked = Person::new("revoked", Some(&ca));
        let request = revoked.request(&[&revoked.certificate]);
        assert_eq!(check(&[&ca, &revoked], &request, NOW), Err(RequestorError::NotTrusted));
    }

    #[test]
    fn sec_02_of_many_certificates_only_the_first_are_read() {
        let ca = Person::new("CA", None);
        let requestor = Person::new("requestor", Some(&ca));
        let (last, own) = (&requestor.certificate, &ca.certificate);
        assert_eq!(check(&[&ca], &requestor.request(&[own, own, own, last]), NOW), Ok(()));
        let late = requestor.request(&[own, own, own, own, last]);
        assert!(check(&[&ca], &late, NOW).is_err());
    }

    #[test]
    fn sec_01_verifying_for_a_stranger_is_paid_for_and_for_who_sends_a_certificate_it_is_free() {
        let ca = Person::new("CA", None);
        let all: Vec<_> = (0..5).map(|_| Person::new("requestor", Some(&ca))).collect();
        let trusted = std::iter::once(&ca).chain(&all).map(|person| person.certificate.clone()).collect();
        let requestors = Requestors::new(trusted);
        let paid = |request: &[u8], budget: usize| {
            let (request, mut spent) = (parse(request, Limits::default()).unwrap(), 0);
            let checked = requestors.check(
                &request.signature.unwrap(),
                NOW,
                |_| false,
                || {
                    spent += 1;
                    spent <= budget
                },
            );
            (checked, spent)
        };
        let stranger = Person::new("stranger", None);
        let (last, other) = (&all[4], Person::new("requestor", Some(&ca)));
        for known in [last, &other] {
            assert_eq!(paid(&known.request(&[&known.certificate]), 0), (Ok(()), 0));
        }
        assert_eq!(paid(&last.request(&[]), 9), (Ok(()), 4));
        assert_eq!(paid(&stranger.request(&[]), 9), (Err(RequestorError::NotTrusted), 4));
        assert_eq!(paid(&stranger.request(&[]), 1), (Err(RequestorError::Overloaded), 2));
        let copies = [&last.certificate; 4];
        assert_eq!(paid(&stranger.request(&copies), 0), (Err(RequestorError::Overloaded), 1));
    }
}
