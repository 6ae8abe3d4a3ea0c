//! An authority: one issuer, its index, and the key that signs answers about it.
//!
//! Goes in: the CA's certificate, a key, and perhaps the certificate of a delegate. Comes out: an
//! [`Authority`], or the reason why clients would not accept its answers (OCSP-50, OCSP-56).

use super::live::{Live, LiveRate};
use super::refresh::Presign;
use super::response::{CertStatus, ResponseData, Template};
use crate::index::{Index, Record};
use crate::pki::hash::sha256;
use crate::pki::{Certificate, Issuer, Serial, Status, Time};
use crate::sign::Signer;
use crate::sign::verify::{self, VerifyError};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// What is said of serials that were never issued (OCSP-34); good is not among the choices.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotIssued {
    /// The unsigned error: cheap.
    Unauthorized,
    /// The signed status.
    Unknown,
}

/// Whether a nonce is answered (OCSP-66).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoncePolicy {
    /// Each such request gets a signature of its own, as far as [`Policy::live_rate`] goes; then as
    /// [`NoncePolicy::CachedReply`].
    Live,
    /// From the cache, without the nonce (OCSP-65); HTTP caches are told not to keep the reply, because
    /// nobody else will ever ask with that nonce (OCSP-67).
    CachedReply,
    /// As though none had been sent.
    Off,
}

/// How an authority answers.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// From thisUpdate to nextUpdate. Answers are signed anew before half of it is over.
    pub lifetime: Duration,
    /// How long an HTTP cache may keep `good`.
    pub max_age_good: Duration,
    /// The same for what may change any moment: a hold, an unknown serial.
    pub max_age_uncertain: Duration,
    /// What is said of serials that were never issued.
    pub not_issued: NotIssued,
    /// Whether a nonce is answered.
    pub nonce: NoncePolicy,
    /// When the database has been out of reach for longer, nothing but `revoked` is signed (promise 2).
    pub max_staleness: Duration,
    /// Signatures for one request alone (SEC-01).
    pub live_rate: LiveRate,
    /// Which answers are signed anew before anybody asks for them.
    pub presign: Presign,
}

impl Policy {
    /// From one thisUpdate to the next: a little less than half the lifetime, so that the refresher and
    /// its [`Policy::grace`] end before that half does (BR-10).
    fn period(&self) -> i64 {
        i64::try_from(self.lifetime.as_secs() * 7 / 16).unwrap_or(i64::MAX).max(1)
    }

    /// For how long an answer that is due for renewal is still given, so that the refresher can renew it
    /// and nobody waits for that.
    fn grace(&self) -> Duration {
        if self.presign == Presign::None { Duration::ZERO } else { self.lifetime / 16 }
    }
}

/// Answers about serials that were never issued live no longer than this (promise 1).
const ABSENT_LIFETIME: Duration = Duration::from_secs(60);

/// Why the answers of a certificate's key would be refused by clients.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DelegateError {
    /// It is not valid yet, or no more.
    #[error(
        "the OCSP certificate of \"{subject}\" is valid from {not_before} to {not_after}, not now; have the CA issue a new one"
    )]
    Expired {
        /// The certificate's subject.
        subject: String,
        /// notBefore.
        not_before: Time,
        /// notAfter.
        not_after: Time,
    },
    /// keyUsage forbids it.
    #[error("the certificate of \"{0}\" has a keyUsage without digitalSignature, so clients refuse its OCSP responses")]
    KeyUsage(String),
    /// No EKU OCSPSigning.
    #[error(
        "the OCSP certificate of \"{0}\" lacks the extended key usage OCSPSigning (1.3.6.1.5.5.7.3.9), without which \
         clients refuse its responses; have the CA issue one that has it"
    )]
    NotForOcsp(String),
    /// Another CA's.
    #[error(
        "the OCSP certificate of \"{subject}\" was not issued by \"{ca}\" ({source}); a delegate must be issued by the \
         very CA key that it answers for (RFC 6960 4.2.2.2)"
    )]
    NotIssuedByCa {
        /// The certificate's subject.
        subject: String,
        /// The CA's subject.
        ca: String,
        /// What the check of the signature said.
        source: VerifyError,
    },
}

/// One issuer and the key that signs answers about it.
#[derive(Debug)]
pub struct Authority {
    pub(super) id: u32,
    pub(super) issuer: Arc<Issuer>,
    pub(super) index: Arc<Index>,
    pub(super) signer: Arc<Signer>,
    pub(super) template: Template,
    pub(super) policy: Policy,
    pub(super) live: Live,
    /// Tells the responses of this template from those of others that have the same signature.
    pub(super) fingerprint: [u8; 8],
    not_before: Time,
    not_after: Time,
}

/// What is to be said of one certificate now, before anything is signed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) status: CertStatus,
    pub(super) this_update: Time,
    pub(super) next_update: Time,
    /// When the present status was learned: nothing signed before that may be given any more.
    pub(super) since: Time,
    /// The second from which a newer answer is signed; HTTP caches ask again then.
    pub(super) renewed_at: Time,
    /// For how long an older answer may still be given once this one could be signed.
    pub(super) grace: Duration,
    /// Whether the serial was never issued.
    pub(super) absent: bool,
    pub(super) max_age: Duration,
    /// Whether the index is current enough to sign this; an answer signed before may be given in any case.
    pub(super) may_sign: bool,
}

impl Authority {
    /// Checks that clients will accept answers signed by `signer`, which belongs to `delegate`, or to the CA
    /// itself if there is none. `id` must be another for every signer that ever answers in this process.
    ///
    /// # Errors
    /// [`DelegateError`] says what clients would object to.
    pub fn new(
        id: u32,
        issuer: Arc<Issuer>,
        index: Arc<Index>,
        signer: Arc<Signer>,
        delegate: Option<&Certificate>,
        policy: Policy,
        now: Time,
    ) -> Result<Self, DelegateError> {
        let ca = &issuer.certificate;
        let certificate = delegate.unwrap_or(ca);
        check(certificate, delegate.is_some().then_some(ca), now)?;
        let template = Template::new(certificate, signer.algorithm(), delegate.is_some());
        let (not_before, not_after) = (certificate.not_before(), certificate.not_after().min(ca.not_after()));
        let frame =
            template.respond(&ResponseData { produced_at: Time::default(), singles: &[], extensions: &[] }, &[]);
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&sha256(&frame)[..8]);
        let live = Live::new(policy.live_rate);
        Ok(Self { id, issuer, index, signer, template, policy, live, fingerprint, not_before, not_after })
    }

    /// Whether the signer's certificate is valid (OCSP-44).
    pub(super) fn is_valid_at(&self, now: Time) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// The last second of the signer's certificate, or of the CA's if that comes sooner.
    #[must_use]
    pub const fn not_after(&self) -> Time {
        self.not_after
    }

    /// What is to be said of `serial`; `None` if it was never issued and that is not signed here. `None`
    /// for `serial` stands for one that no certificate can have.
    pub(super) fn plan(&self, serial: Option<&Serial>, now: Time) -> Result<Option<Plan>, Unready> {
        // In this order: the view is then at least as new as what is claimed for it.
        let as_of = self.index.as_of();
        let complete = self.index.is_complete();
        let record = serial.and_then(|serial| self.index.view().get(serial));
        let current = complete && as_of.is_some_and(|as_of| now.since(as_of) <= self.policy.max_staleness);
        match record {
            Some(record) => {
                let revoked = record.status != Status::Good;
                // Promise 12: until the feed has reached the head, only what is known to be revoked is known.
                if !complete && !revoked {
                    return Err(Unready);
                }
                let known_until = as_of.unwrap_or(record.since);
                Ok(Some(self.plan_known(serial, &record, known_until, current || revoked)))
            }
            None if !complete => Err(Unready),
            None => Ok(match self.policy.not_issued {
                NotIssued::Unauthorized => None,
                NotIssued::Unknown => as_of.map(|as_of| self.plan_absent(as_of, now, current)),
            }),
        }
    }

    fn plan_known(&self, serial: Option<&Serial>, record: &Record, known_until: Time, may_sign: bool) -> Plan {
        let aligned = self.aligned(serial, known_until);
        let this_update = aligned.max(record.since);
        let status = match record.status {
            Status::Good => CertStatus::Good,
            Status::Revoked(revocation) => CertStatus::Revoked(revocation),
        };
        let max_age = match record.status {
            Status::Good => self.policy.max_age_good,
            _ if record.status.is_hold() => self.policy.max_age_uncertain,
            Status::Revoked(_) => self.policy.lifetime,
        };
        Plan {
            status,
            this_update,
            since: record.since,
            next_update: (this_update + self.policy.lifetime).min(self.not_after),
            renewed_at: Time::from_unix(aligned.unix().saturating_add(self.policy.period())),
            grace: self.policy.grace(),
            absent: false,
            max_age,
            may_sign,
        }
    }

    /// The last of the moments at which answers about `serial` are dated, as far as `known_until` allows.
    fn aligned(&self, serial: Option<&Serial>, known_until: Time) -> Time {
        // One second below `as_of`: a change that is learned within this very second can then be dated
        // after everything that was signed before it (promise 2).
        let latest = known_until - Duration::from_secs(1);
        let period = self.policy.period();
        let phase = serial.map_or(0, |serial| phase(serial, period));
        Time::from_unix(latest.unix() - (latest.unix() - phase).rem_euclid(period))
    }

    /// Whether an answer about `serial` that is dated `this_update` could be signed anew by now.
    pub(super) fn is_due(&self, serial: &Serial, this_update: Time) -> bool {
        self.index.as_of().is_some_and(|as_of| this_update < self.aligned(Some(serial), as_of))
    }

    fn plan_absent(&self, as_of: Time, now: Time, may_sign: bool) -> Plan {
        let until = (now + ABSENT_LIFETIME.min(self.policy.lifetime)).min(self.not_after);
        Plan {
            status: CertStatus::Unknown,
            this_update: as_of - Duration::from_secs(1),
            next_update: until,
            since: Time::default(),
            renewed_at: until,
            grace: Duration::ZERO,
            absent: true,
            max_age: self.policy.max_age_uncertain.min(ABSENT_LIFETIME),
            may_sign,
        }
    }
}

/// The index has not reached the database's head since the start: tryLater.
#[derive(Debug)]
pub(super) struct Unready;

/// Where in the period a serial's answers are renewed: a stable hash (FNV-1a), so that they do not all
/// lapse together, and every node renews at the same second.
pub(super) fn phase(serial: &Serial, period: i64) -> i64 {
    let hash = serial
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| (hash ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3));
    i64::try_from(hash >> 1).unwrap_or(0) % period
}

/// Checks that clients accept answers signed with the key of `certificate`; `ca` is given for a delegate,
/// and absent when the CA signs itself.
///
/// # Errors
/// [`DelegateError`] says what clients would object to.
pub fn check(certificate: &Certificate, ca: Option<&Certificate>, now: Time) -> Result<(), DelegateError> {
    let subject = || certificate.subject_text().to_owned();
    if let Some(ca) = ca {
        verify::issued_by(certificate, ca).map_err(|source| DelegateError::NotIssuedByCa {
            subject: subject(),
            ca: ca.subject_text().to_owned(),
            source,
        })?;
        if !certificate.ocsp_signing {
            return Err(DelegateError::NotForOcsp(subject()));
        }
    }
    if !certificate.may_sign_data() {
        return Err(DelegateError::KeyUsage(subject()));
    }
    let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
    if now < not_before || not_after < now {
        return Err(DelegateError::Expired { subject: subject(), not_before, not_after });
    }
    if ca.is_some() && !certificate.ocsp_nocheck {
        tracing::warn!(
            subject = certificate.subject_text(),
            "the OCSP certificate lacks id-pkix-ocsp-nocheck: clients may ask for its own status (RFC 6960 4.2.2.2.1)"
        );
    }
    Ok(())
}
