//! An authority: one issuer, its index, the keys that sign answers about it, and the rules it lives by.
//!
//! Goes in: the CA's certificate, [`Credential`]s, a [`Policy`]. Comes out: for a serial and a moment, a
//! [`Plan`] of what is to be said; or, at the start, the reason why clients would not accept the answers
//! (OCSP-50, OCSP-56). Nothing is signed here.

use super::cache::Signed;
use super::live::{Live, LiveRate};
use super::refresh::Presign;
use super::request::Request;
use super::requestor::{RequestorError, Requestors};
use super::response::{self, CertStatus, Failure, ResponderId, ResponseData, Template};
use crate::index::{Index, Record};
use crate::pki::hash::sha256;
use crate::pki::{Certificate, Issuer, Reason, Revocation, Serial, Status, TOLERANCE, Time};
use crate::sign::Signer;
use crate::sign::verify::{self, VerifyError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;

/// A status that changed several times within a second is dated some seconds ahead (promise 2), but never more.
const AHEAD: Duration = Duration::from_secs(5);

/// What is said of serials that were never issued (OCSP-34); good is a choice only where nobody knows what was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotIssued {
    /// Good: the source names revoked certificates only, and the operator wants it so (promise 1).
    Good,
    /// The unsigned error: cheap.
    Unauthorized,
    /// The signed status.
    Unknown,
    /// Revoked since 1970, on hold, with extended-revoke (OCSP-35).
    Revoked,
}

/// What is said of a certificate whose notBefore lies ahead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotYetValid {
    /// Its status: it was issued, and may have been revoked (REV-14).
    Status,
    /// That it is unknown, until it begins.
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
#[derive(Clone, Debug)]
pub struct Policy {
    /// From thisUpdate to nextUpdate. Answers are signed anew before half of it is over.
    pub lifetime: Duration,
    /// How long an HTTP cache may keep `good`.
    pub max_age_good: Duration,
    /// The same for what may change any moment: a hold, an unknown serial.
    pub max_age_uncertain: Duration,
    /// What is said of serials that were never issued.
    pub not_issued: NotIssued,
    /// What is said of certificates that are not valid yet.
    pub not_yet_valid: NotYetValid,
    /// Whether a nonce is answered.
    pub nonce: NoncePolicy,
    /// When the database has been out of reach for longer, nothing but `revoked` is signed (promise 2).
    pub max_staleness: Duration,
    /// How long after its notAfter a certificate is still answered for; `None` for ever (REV-20).
    pub retention: Option<Duration>,
    /// Whether answers tell that (OCSP-74).
    pub archive_cutoff: bool,
    /// Whether answers carry the hash of the certificate where it is known (CH-01).
    pub cert_hash: bool,
    /// Whether answers about revoked certificates carry the invalidity date (OCSP-76).
    pub invalidity_date: bool,
    /// The URL of the CRL, for CrlID in answers about revoked certificates (OCSP-72); `None` to leave it out.
    pub crl_url: Option<Arc<str>>,
    /// How the signer is named (OCSP-12).
    pub responder_id: ResponderId,
    /// The CA itself is revoked or its key compromised: every certificate of it is (OCSP-37).
    pub ca_revoked: Option<Revocation>,
    /// The CA's life is over: what is signed now is for ever (ETSI-24).
    pub end_of_life: bool,
    /// Signatures for one request alone (SEC-01).
    pub live_rate: LiveRate,
    /// Which answers are signed anew before anybody asks for them.
    pub presign: Presign,
    /// Whether a delegate must carry id-pkix-ocsp-nocheck (BR-18).
    pub requires_nocheck: bool,
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

/// What suits a CA that only its owner's rules bind.
impl Default for Policy {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self {
            lifetime: minute * 60,
            max_age_good: minute,
            max_age_uncertain: minute,
            not_issued: NotIssued::Unauthorized,
            not_yet_valid: NotYetValid::Status,
            nonce: NoncePolicy::Live,
            max_staleness: minute,
            retention: None,
            archive_cutoff: false,
            cert_hash: false,
            invalidity_date: false,
            crl_url: None,
            responder_id: ResponderId::ByKey,
            ca_revoked: None,
            end_of_life: false,
            live_rate: LiveRate::default(),
            presign: Presign::default(),
            requires_nocheck: false,
        }
    }
}

/// What it means that a delegate's certificate lacks id-pkix-ocsp-nocheck (OCSP-54), and what to do.
pub const WITHOUT_NOCHECK: &str = "the OCSP certificate lacks id-pkix-ocsp-nocheck (RFC 6960 4.2.2.2.1), so that clients \
                                   look for its own status first, and some refuse its responses: have the CA issue one \
                                   that has it";

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
    #[error(
        "the certificate of \"{0}\" has a keyUsage without digitalSignature, so clients refuse its OCSP responses; have \
         the CA issue one with it and the extended key usage OCSPSigning, and name that one and its key in \
         [issuer.ocsp], or say `enabled = false` there to publish CRLs only"
    )]
    KeyUsage(String),
    /// No EKU OCSPSigning.
    #[error(
        "the OCSP certificate of \"{0}\" lacks the extended key usage OCSPSigning (1.3.6.1.5.5.7.3.9), without which \
         clients refuse its responses; have the CA issue one that has it"
    )]
    NotForOcsp(String),
    /// No id-pkix-ocsp-nocheck, where it must be there.
    #[error(
        "the OCSP certificate of \"{0}\" lacks id-pkix-ocsp-nocheck (RFC 6960 4.2.2.2.1), which CAs for TLS must give it \
         (profile tls-br; Baseline Requirements 7.1.2.8); have the CA issue one that has it"
    )]
    NoCheck(String),
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

/// A key that signs answers, with the certificate by which clients accept it.
#[derive(Debug)]
pub struct Credential {
    /// Another for every one that ever signs in this process; answers in the cache belong to it.
    pub(super) id: u32,
    pub(super) signer: Arc<Signer>,
    /// The delegate's; `None` when the CA signs itself.
    pub(super) delegate: Option<Certificate>,
}

impl Credential {
    /// The key `signer` of `delegate`, or of the CA itself if there is none. `id` must be another for every
    /// credential that is ever used in this process.
    #[must_use]
    pub const fn new(id: u32, signer: Arc<Signer>, delegate: Option<Certificate>) -> Self {
        Self { id, signer, delegate }
    }
}

/// A credential that was checked.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) id: u32,
    pub(super) signer: Arc<Signer>,
    pub(super) template: Template,
    /// Tells the responses of this template from those of others that have the same signature.
    pub(super) fingerprint: [u8; 8],
    not_before: Time,
    not_after: Time,
    delegate: Option<Certificate>,
    /// The CA has revoked the delegate, as far as was last looked.
    is_revoked: AtomicBool,
}

/// The keys of an issuer, for whoever looks after them.
#[derive(Debug)]
pub struct Signers<'a> {
    /// The issuer's name.
    pub issuer: &'a str,
    /// Whether any of them may sign now.
    pub signs: bool,
    /// notBefore of the one that ends last.
    pub from: Time,
    /// The last second at which that may sign: its notAfter, or the CA's; long ago if there is none.
    pub until: Time,
    /// Delegates that the CA has revoked or put on hold, whose keys do not sign.
    pub revoked: Vec<&'a Certificate>,
}

/// OCSP-58: a new delegate begins to sign this long after its notBefore, so that clients whose clocks are
/// late accept it.
const SEASONING: Duration = Duration::from_secs(300);

impl Key {
    fn is_valid_at(&self, now: Time) -> bool {
        self.not_before <= now && now <= self.not_after && !self.is_revoked()
    }

    fn is_revoked(&self) -> bool {
        self.is_revoked.load(Ordering::Relaxed)
    }

    /// Past its first minutes, and with time left for a whole answer.
    fn is_in_its_prime(&self, now: Time, lifetime: Duration) -> bool {
        self.not_before + SEASONING <= now && now + lifetime <= self.not_after
    }
}

/// One issuer, the keys that sign answers about it, and its rules.
#[derive(Debug)]
pub struct Authority {
    pub(super) issuer: Arc<Issuer>,
    pub(super) index: Arc<Index>,
    pub(super) policy: Policy,
    pub(super) live: Live,
    /// In the order of the config: the algorithm of the first is the one by default.
    keys: Vec<Key>,
    /// What every answer carries among its responseExtensions.
    pub(super) extensions: Vec<u8>,
    /// When these rules came into force: an answer that follows from them is dated no earlier.
    since: Time,
    /// Who may ask; `None` for everybody.
    requestors: Option<Requestors>,
}

/// What is to be said of one certificate now, before anything is signed.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) status: CertStatus,
    pub(super) this_update: Time,
    pub(super) next_update: Time,
    /// When the present status was learned: nothing signed before that may be given any more.
    pub(super) since: Time,
    /// The second from which a newer answer is signed; HTTP caches ask again then.
    pub(super) renewed_at: Time,
    /// Until when an older answer may still be given though this one could be signed.
    pub(super) overdue_until: Time,
    pub(super) max_age: Duration,
    /// Whether the index is current enough to sign this; an answer signed before may be given in any case.
    pub(super) may_sign: bool,
    /// Of the certificate, where the answer is to carry it.
    pub(super) sha256: Option<[u8; 32]>,
    /// The serial was never issued, whatever the status says.
    pub(super) absent: bool,
    /// It is not known to have been issued, and answered as though it were.
    pub(super) unlisted: bool,
    /// An answer that ends earlier is to be signed anew, though nothing in it changed.
    pub(super) at_least_until: Time,
}

/// Why nothing is said of a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Silence {
    /// The index has not reached the database's head since the start.
    Unready,
    /// It was never issued, and that is not signed here.
    NotIssued,
    /// It expired longer ago than is kept.
    Purged,
    /// Its status changed twice within this second: what it is now is dated in the next one (promise 2).
    Early,
}

impl Authority {
    /// Checks that clients will accept answers signed by `credentials`, the first of which signs unless
    /// another has its turn: one of the same algorithm that began later, or one that the client prefers.
    ///
    /// # Errors
    /// [`DelegateError`] says what clients would object to. Any of them may be expired or not begun: without one that
    /// is valid all is tryLater.
    pub fn new(
        issuer: Arc<Issuer>,
        index: Arc<Index>,
        credentials: Vec<Credential>,
        policy: Policy,
        now: Time,
    ) -> Result<Self, DelegateError> {
        let ca = &issuer.certificate;
        let mut keys = Vec::with_capacity(credentials.len());
        for Credential { id, signer, delegate } in credentials {
            let certificate = delegate.as_ref().unwrap_or(ca);
            match check(certificate, delegate.is_some().then_some(ca), now) {
                Err(expired @ DelegateError::Expired { .. }) => {
                    tracing::warn!(issuer = %issuer.name, "a certificate does not sign: {expired}");
                }
                checked => checked?,
            }
            if let Some(delegate) = delegate.as_ref().filter(|delegate| !delegate.ocsp_nocheck) {
                let subject = delegate.subject_text();
                if policy.requires_nocheck {
                    return Err(DelegateError::NoCheck(subject.to_owned()));
                }
                tracing::warn!(subject, "{WITHOUT_NOCHECK}");
            }
            let template = Template::new(certificate, signer.algorithm(), policy.responder_id, delegate.is_some());
            let (not_before, not_after) = (certificate.not_before(), certificate.not_after().min(ca.not_after()));
            let frame = ResponseData { produced_at: Time::default(), singles: &[], extensions: &[] };
            let mut fingerprint = [0; 8];
            fingerprint.copy_from_slice(&sha256(&template.respond(&frame, &[]))[..8]);
            let is_revoked = AtomicBool::new(false);
            keys.push(Key { id, signer, template, fingerprint, not_before, not_after, delegate, is_revoked });
        }
        let extensions = match policy.not_issued {
            NotIssued::Revoked => response::extended_revoke_extension(),
            _ => Vec::new(),
        };
        let live = Live::new(policy.live_rate);
        let authority = Self { issuer, index, policy, live, keys, extensions, since: now, requestors: None };
        authority.look_after_signers(now);
        Ok(authority)
    }

    /// Looks up whether the CA has revoked its delegates: such a key signs no more, unless a hold is lifted (OCSP-56).
    pub(super) fn look_after_signers(&self, now: Time) -> Signers<'_> {
        let mut revoked = Vec::new();
        for key in &self.keys {
            let found = key.delegate.as_ref().filter(|delegate| self.has_revoked(delegate));
            key.is_revoked.store(found.is_some(), Ordering::Relaxed);
            revoked.extend(found);
        }
        let signs = self.keys.iter().any(|key| key.is_valid_at(now));
        let last = self.keys.iter().filter(|key| !key.is_revoked()).max_by_key(|key| key.not_after);
        let (from, until) = last.map_or_else(Default::default, |key| (key.not_before, key.not_after));
        Signers { issuer: self.name(), signs, from, until, revoked }
    }

    /// The same, answering only requests that one of `requestors` has signed.
    #[must_use]
    pub fn only_for(self, requestors: Requestors) -> Self {
        Self { requestors: Some(requestors), ..self }
    }

    /// Whether requests must be signed; the answers are then nobody else's to keep.
    pub(super) const fn is_closed(&self) -> bool {
        self.requestors.is_some()
    }

    /// Lets `request` in: sigRequired for one without a signature, unauthorized for one that nobody who may
    /// has signed (OCSP-25, OCSP-26). Where everybody may ask, signatures are passed over (OCSP-17).
    pub(super) fn admit(
        &self,
        request: &Request<'_>,
        now: Time,
        may_spend: impl FnMut() -> bool,
    ) -> Result<(), Failure> {
        let Some(requestors) = &self.requestors else { return Ok(()) };
        let signature = request.signature.as_ref().ok_or(Failure::SigRequired)?;
        requestors.check(signature, now, |signer| self.has_revoked(signer), may_spend).map_err(|error| match error {
            RequestorError::NotTrusted | RequestorError::Signature => Failure::Unauthorized,
            RequestorError::Overloaded => Failure::TryLater,
        })
    }

    /// Whether this issuer issued `certificate` and has revoked it since.
    fn has_revoked(&self, certificate: &Certificate) -> bool {
        certificate.issuer() == self.issuer.certificate.subject()
            && self.index.view().get(&certificate.serial()).is_some_and(|record| record.status != Status::Good)
    }

    /// The key that signs now: of the first algorithm in `preferred` that there is a key for, else of the
    /// first credential's (OCSP-78). `None` if none is valid (OCSP-44).
    pub(super) fn key<'a>(&self, mut preferred: impl Iterator<Item = &'a [u8]>, now: Time) -> Option<&Key> {
        let wished = preferred.find_map(|algorithm| self.key_of(algorithm, now));
        let usual = || self.keys.first().and_then(|first| self.key_of(first.signer.algorithm(), now));
        wished.or_else(usual).or_else(|| self.keys.iter().find(|key| key.is_valid_at(now)))
    }

    fn key_of(&self, algorithm: &[u8], now: Time) -> Option<&Key> {
        let lifetime = self.policy.lifetime;
        let candidates = self.keys.iter().filter(|key| key.signer.algorithm() == algorithm && key.is_valid_at(now));
        candidates.max_by_key(|key| (key.is_in_its_prime(now, lifetime), key.not_before))
    }

    /// The key with this number, if it is the one that signs now where its algorithm is wanted.
    pub(super) fn current_key(&self, id: u32, now: Time) -> Option<&Key> {
        let key = self.keys.iter().find(|key| key.id == id)?;
        self.key_of(key.signer.algorithm(), now).filter(|current| current.id == id)
    }

    /// The issuer's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.issuer.name.as_str()
    }

    /// What is to be said of `serial` in an answer that `key` signs. `None` for `serial` stands for one
    /// that no certificate can have.
    pub(super) fn plan(&self, serial: Option<&Serial>, key: &Key, now: Time) -> Result<Plan, Silence> {
        // In this order: each is then at least as new as what is claimed for it.
        let until = self.index.until();
        // What the future vouches for is worth nothing: the clock was wrong then.
        let as_of = self.index.as_of().filter(|as_of| *as_of <= now + TOLERANCE).map(|as_of| as_of.min(now));
        let complete = self.index.is_complete();
        let mut record = serial.and_then(|serial| self.index.view().get(serial));
        if let Some(record) = record.as_mut().filter(|record| record.since > now + AHEAD) {
            // Learned by a clock that was wrong, which is no reason to say nothing for as long.
            record.since = as_of.unwrap_or(now);
        }
        let fresh = |as_of| until.map_or_else(|| now.since(as_of) <= self.policy.max_staleness, |until| now < until);
        let current = complete && as_of.is_some_and(fresh);
        if let Some(revocation) = self.policy.ca_revoked {
            let told = self.of_revoked_ca(record, revocation, now);
            if told.since > now {
                return Err(Silence::Early);
            }
            let plan = self.plan_known(serial, &told, key, as_of.unwrap_or(now), true);
            let plan = if record.is_none() { of_nobody(plan) } else { plan };
            // A list's date lies further back than an answer lives.
            return Ok(if current && until.is_none() { plan } else { self.outlasting(plan, key, now) });
        }
        let listed = as_of.zip(until);
        let Some(record) = record else {
            let (true, Some(as_of)) = (complete, as_of) else { return Err(Silence::Unready) };
            let plan = match serial {
                Some(_) if self.policy.not_issued == NotIssued::Good => self.plan_unlisted(serial, key, as_of, current),
                _ => self.plan_absent(key, as_of, now, current)?,
            };
            return Ok(self.within(listed, plan, serial, key, now));
        };
        let revoked = record.status != Status::Good;
        // Promise 12: until the feed has reached the head, only what is known to be revoked is known.
        if !complete && !revoked {
            return Err(Silence::Unready);
        }
        if self.policy.retention.is_some_and(|retention| record.not_after + retention < now) {
            return Err(Silence::Purged);
        }
        if record.since > now {
            return Err(Silence::Early);
        }
        let known_until = as_of.unwrap_or(record.since);
        if !revoked && self.policy.not_yet_valid == NotYetValid::Unknown && now < record.not_before {
            let until = record.not_before - Duration::from_secs(1);
            return Ok(self.plan_unknown(CertStatus::Unknown, key, known_until, now, current, until));
        }
        let plan = self.plan_known(serial, &record, key, known_until, current || revoked);
        Ok(if revoked && !current {
            self.outlasting(plan, key, now)
        } else {
            self.within(listed, plan, serial, key, now)
        })
    }

    /// Where a CRL is the source, an answer says what the list says, from its thisUpdate and at most to its
    /// nextUpdate. It lives no longer than others all the same, counted from the alignment point before `now`.
    fn within(&self, listed: Option<(Time, Time)>, plan: Plan, serial: Option<&Serial>, key: &Key, now: Time) -> Plan {
        let Some((this_update, until)) = listed else { return plan };
        let (since, began) = (plan.since.min(this_update), self.aligned(serial, now));
        if plan.absent {
            let next_update = plan.next_update.min(until);
            return Plan { this_update, since, next_update, renewed_at: next_update, ..plan };
        }
        let next_update = self.listed_end(began, until, key);
        Plan {
            this_update,
            since,
            next_update,
            at_least_until: next_update,
            renewed_at: Time::from_unix(began.unix().saturating_add(self.policy.period())).min(until),
            overdue_until: began + self.policy.grace(),
            ..plan
        }
    }

    fn listed_end(&self, began: Time, until: Time, key: &Key) -> Time {
        (began + self.policy.lifetime).min(until).min(key.not_after)
    }

    /// Nobody knows whether it was issued; the operator wants it called good as long as it is not revoked.
    fn plan_unlisted(&self, serial: Option<&Serial>, key: &Key, as_of: Time, may_sign: bool) -> Plan {
        let (not_before, since) = (Time::default(), Time::default());
        let record = Record { not_before, not_after: Time::MAX, status: Status::Good, since, sha256: None };
        of_nobody(self.plan_known(serial, &record, key, as_of, may_sign))
    }

    /// A revocation stands without the database too (promises 2 and 12). Its date stays what is known, which
    /// may lie further back than an answer lives, so the end is counted from now.
    fn outlasting(&self, plan: Plan, key: &Key, now: Time) -> Plan {
        let end = (now + self.policy.lifetime / 2).min(key.not_after);
        let next_update = plan.next_update.max(end);
        Plan { next_update, renewed_at: next_update, ..plan }
    }

    /// OCSP-37: what was revoked before stays as it was; all else is revoked with the CA.
    fn of_revoked_ca(&self, record: Option<Record>, revocation: Revocation, now: Time) -> Record {
        let status = Status::Revoked(revocation);
        match record {
            Some(record) if record.status != Status::Good && !record.status.is_hold() => record,
            Some(record) => Record { status, since: self.since, ..record },
            None => Record { not_before: now, not_after: now, status, since: self.since, sha256: None },
        }
    }

    fn plan_known(
        &self,
        serial: Option<&Serial>,
        record: &Record,
        key: &Key,
        known_until: Time,
        may_sign: bool,
    ) -> Plan {
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
        let next_update =
            if self.policy.end_of_life { Time::MAX } else { (this_update + self.policy.lifetime).min(key.not_after) };
        Plan {
            status,
            this_update,
            next_update,
            since: record.since,
            renewed_at: Time::from_unix(aligned.unix().saturating_add(self.policy.period())),
            overdue_until: this_update + self.policy.grace(),
            max_age,
            may_sign,
            sha256: record.sha256.filter(|_| self.policy.cert_hash),
            absent: false,
            unlisted: false,
            at_least_until: Time::default(),
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

    /// Whether the answer about `serial` that `key` has `signed` could be signed anew by now.
    pub(super) fn is_due(&self, serial: &Serial, key: &Key, signed: &Signed, now: Time) -> bool {
        let within = self.index.until().filter(|until| now < *until && self.policy.ca_revoked.is_none());
        let Some(as_of) = self.index.as_of() else { return false };
        let Some(until) = within else { return signed.this_update < self.aligned(Some(serial), as_of) };
        signed.this_update < as_of || signed.next_update < self.listed_end(self.aligned(Some(serial), now), until, key)
    }

    /// Whether `serial` belongs to a certificate that has not expired.
    pub(super) fn is_alive(&self, serial: &Serial, now: Time) -> bool {
        self.index.view().get(serial).is_some_and(|record| record.not_after >= now)
    }

    fn plan_absent(&self, key: &Key, as_of: Time, now: Time, may_sign: bool) -> Result<Plan, Silence> {
        let status = match self.policy.not_issued {
            NotIssued::Unauthorized | NotIssued::Good => return Err(Silence::NotIssued),
            NotIssued::Unknown => CertStatus::Unknown,
            NotIssued::Revoked => CertStatus::Revoked(NEVER_ISSUED),
        };
        Ok(self.plan_unknown(status, key, as_of, now, may_sign, Time::MAX))
    }

    /// An answer that must not be kept: a certificate may come any moment (promise 1).
    fn plan_unknown(&self, status: CertStatus, key: &Key, as_of: Time, now: Time, may_sign: bool, end: Time) -> Plan {
        let until = (now + ABSENT_LIFETIME.min(self.policy.lifetime)).min(key.not_after).min(end);
        Plan {
            status,
            this_update: as_of - Duration::from_secs(1),
            next_update: until,
            since: Time::default(),
            renewed_at: until,
            overdue_until: Time::default(),
            max_age: self.policy.max_age_uncertain.min(ABSENT_LIFETIME),
            may_sign,
            sha256: None,
            absent: true,
            unlisted: false,
            at_least_until: Time::default(),
        }
    }

    /// The singleExtensions of an answer signed at `produced_at`, one DER after another. They follow from
    /// the arguments alone, so that an answer from the cache gets the very bytes that were signed.
    pub(super) fn single_extensions(
        &self,
        status: &CertStatus,
        sha256: Option<&[u8; 32]>,
        absent: bool,
        produced_at: Time,
    ) -> Vec<u8> {
        let mut all = Vec::new();
        // CH-03, OCSP-35: of what is not there, nothing more is said.
        if absent {
            return all;
        }
        if self.policy.archive_cutoff {
            let kept_since = |retention| produced_at - retention;
            let cutoff = self.policy.retention.map_or_else(|| self.issuer.certificate.not_before(), kept_since);
            all.extend(response::archive_cutoff_extension(cutoff));
        }
        if let CertStatus::Revoked(revocation) = status {
            if let Some(url) = &self.policy.crl_url {
                all.extend(response::crl_id_extension(url));
            }
            if let Some(date) = revocation.invalidity_date.filter(|_| self.policy.invalidity_date) {
                all.extend(response::invalidity_date_extension(date));
            }
        }
        if let Some(sha256) = sha256 {
            all.extend(response::cert_hash_extension(sha256));
        }
        all
    }
}

/// What is said of a certificate that may not exist: it is a stranger's to choose, and may come any moment.
fn of_nobody(plan: Plan) -> Plan {
    Plan { unlisted: true, max_age: plan.max_age.min(ABSENT_LIFETIME), ..plan }
}

/// OCSP-35.
const NEVER_ISSUED: Revocation =
    Revocation { at: Time::from_unix(0), reason: Reason::CertificateHold, invalidity_date: None };

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
    Ok(())
}
