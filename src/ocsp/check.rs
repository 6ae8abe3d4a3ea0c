//! A client's view: whether an OCSPResponse may be believed (RFC 6960 3.2).
//!
//! Goes in: the response, what was asked, the CA's certificate, the time. Comes out: the status, or why the
//! response proves nothing. Used by `jarchy query`; the responder itself does not need it.

use super::request;
use super::response::{self, Basic, CertStatus, Parsed, Single};
use crate::der::{self, tag};
use crate::pki::{Certificate, HashAlgorithm, Time};
use crate::sign::verify::{self, VerifyError};
use std::time::Duration;
use thiserror::Error;

/// How far the two clocks may be apart; most clients allow as much (CLI-10, CLI-30).
const SKEW: Duration = Duration::from_secs(300);

/// Why a response is not to be believed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The responder gave no answer.
    #[error("the responder answered {} and nothing else", failure_name(*.0))]
    Failure(u8),
    /// It is no OCSPResponse.
    #[error("the response is not well-formed: {0}")]
    Malformed(#[from] der::Error),
    /// It speaks of other certificates.
    #[error("the response does not speak of the certificate that was asked for")]
    OtherCertificate,
    /// Its nonce is another one.
    #[error("the response carries another nonce than the request: it was made for somebody else")]
    Nonce,
    /// Nobody who may has signed it.
    #[error("the response is not signed by the CA, nor by a certificate for OCSP that the CA issued")]
    Signer,
    /// The signature is wrong.
    #[error("the signature of the response: {0}")]
    Signature(VerifyError),
    /// It is too old or from the future.
    #[error("the response is for {this_update} to {next_update}, and now it is {now}")]
    Time {
        /// thisUpdate.
        this_update: Time,
        /// nextUpdate.
        next_update: Time,
        /// The time by which it was judged.
        now: Time,
    },
}

const fn failure_name(code: u8) -> &'static str {
    match code {
        1 => "malformedRequest",
        2 => "internalError",
        3 => "tryLater",
        5 => "sigRequired",
        6 => "unauthorized",
        _ => "an error that RFC 6960 does not know",
    }
}

/// What a response proves.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Status of the certificate.
    pub status: CertStatus,
    /// producedAt.
    pub produced_at: Time,
    /// thisUpdate.
    pub this_update: Time,
    /// nextUpdate.
    pub next_update: Time,
    /// Subject of whoever signed.
    pub signer: String,
    /// The CA's key did not sign itself.
    pub delegated: bool,
    /// The nonce that was sent has come back.
    pub nonce_echoed: bool,
}

/// Checks `bytes` as the response to a request for `cert_id` with `nonce`, at `now`.
///
/// # Errors
/// [`CheckError`] says why it proves nothing.
pub fn check(
    bytes: &[u8],
    cert_id: &[u8],
    nonce: Option<&[u8]>,
    ca: &Certificate,
    now: Time,
) -> Result<Verified, CheckError> {
    let basic = match response::parse(bytes)? {
        Parsed::Failure(code) => return Err(CheckError::Failure(code)),
        Parsed::Basic(basic) => basic,
    };
    let (signer, delegated) = signer(&basic, ca, now)?;
    verify::signature(signer.spki(), basic.algorithm, basic.data, basic.signature).map_err(CheckError::Signature)?;
    let nonce_echoed = match (nonce, basic.nonce) {
        (Some(sent), Some(found)) if found == der::element(tag::OCTET_STRING, &[sent]) => true,
        (Some(_), Some(_)) => return Err(CheckError::Nonce),
        _ => false,
    };
    let ours = |single: &&Single<'_>| request::is_same_certificate(single.cert_id, cert_id);
    let single = basic.singles.iter().find(ours).ok_or(CheckError::OtherCertificate)?;
    let Single { status, this_update, next_update, .. } = *single;
    if now + SKEW < this_update || next_update + SKEW < now {
        return Err(CheckError::Time { this_update, next_update, now });
    }
    let signer = signer.subject_text().to_owned();
    Ok(Verified { status, produced_at: basic.produced_at, this_update, next_update, signer, delegated, nonce_echoed })
}

/// OCSP-50: the CA itself, or a certificate that it issued for OCSP.
fn signer(basic: &Basic<'_>, ca: &Certificate, now: Time) -> Result<(Certificate, bool), CheckError> {
    if is_named(basic.responder_id, ca) {
        return Ok((ca.clone(), false));
    }
    let valid = |delegate: &Certificate| delegate.not_before() <= now + SKEW && now <= delegate.not_after() + SKEW;
    basic
        .certificates
        .iter()
        .filter_map(|der| Certificate::from_der(der).ok())
        .find(|delegate| is_named(basic.responder_id, delegate))
        .filter(|delegate| delegate.ocsp_signing && valid(delegate) && verify::issued_by(delegate, ca).is_ok())
        .map(|delegate| (delegate, true))
        .ok_or(CheckError::Signer)
}

fn is_named(responder_id: &[u8], certificate: &Certificate) -> bool {
    let key_hash = HashAlgorithm::Sha1.digest(certificate.key_bits());
    let by_key = der::element(tag::explicit(2), &[&der::element(tag::OCTET_STRING, &[key_hash.as_ref()])]);
    let by_name = der::element(tag::explicit(1), &[certificate.subject()]);
    responder_id == by_key || responder_id == by_name
}
