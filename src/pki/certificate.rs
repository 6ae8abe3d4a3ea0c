//! What Jarchy needs to know of an X.509 certificate, read once and kept.
//!
//! Goes in: one certificate in DER or PEM. Comes out: its raw names, key and times, and the extensions
//! that decide whether it may sign. x509-cert does the decoding; names and keys are kept as the bytes
//! that stand in the certificate, because hashes and CRLs need those very bytes (OCSP-03, CRL-03).

use super::{Serial, Time, hash::sha256, serial::SerialError};
use crate::der::{self, tag};
use ::der::{Decode, asn1::ObjectIdentifier};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::ops::Range;
use thiserror::Error;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectKeyIdentifier,
};

/// id-kp-OCSPSigning (ALG-32).
const OCSP_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");
/// id-pkix-ocsp-nocheck (ALG-31).
const OCSP_NOCHECK: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.5");

/// Why bytes are not a certificate that can be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Not the DER of a certificate.
    #[error("not a certificate: {0}")]
    Der(#[from] ::der::Error),
    /// The outline is not that of a certificate.
    #[error("not a certificate: {0}")]
    Outline(#[from] der::Error),
    /// Neither DER nor PEM.
    #[error("neither a DER certificate nor a PEM file with a CERTIFICATE block")]
    Format,
    /// A PEM file with another number of certificates than one.
    #[error("holds {0} certificates where one is expected")]
    Count(usize),
    /// The serial number breaks RFC 5280.
    #[error("serial number: {0}")]
    Serial(#[from] SerialError),
}

/// A certificate; see the module's text.
#[derive(Clone, Debug)]
pub struct Certificate {
    der: Vec<u8>,
    subject: Range<usize>,
    issuer: Range<usize>,
    spki: Range<usize>,
    key_bits: Range<usize>,
    tbs: Range<usize>,
    algorithm: Range<usize>,
    signature: Range<usize>,
    serial: Serial,
    not_before: Time,
    not_after: Time,
    subject_text: String,
    /// Content of subjectKeyIdentifier.
    pub subject_key_identifier: Option<Vec<u8>>,
    /// keyIdentifier of authorityKeyIdentifier.
    pub authority_key_identifier: Option<Vec<u8>>,
    /// keyUsage, where it is present.
    pub key_usage: Option<KeyUsage>,
    /// basicConstraints says cA.
    pub is_ca: bool,
    /// extendedKeyUsage names OCSPSigning itself; anyExtendedKeyUsage does not count (OCSP-50).
    pub ocsp_signing: bool,
    /// Carries id-pkix-ocsp-nocheck (OCSP-54).
    pub ocsp_nocheck: bool,
}

/// Where `part` stands in `whole`, of which it is a slice.
fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

impl Certificate {
    /// Reads one certificate in DER.
    ///
    /// # Errors
    /// If it is not a certificate, or its serial number is not one.
    pub fn from_der(bytes: &[u8]) -> Result<Self, CertificateError> {
        let decoded = x509_cert::Certificate::from_der(bytes)?;
        let whole = bytes.to_vec();
        let mut reader = der::outer(&whole, tag::SEQUENCE)?;
        let tbs = reader.element(tag::SEQUENCE)?;
        let algorithm = reader.element(tag::SEQUENCE)?;
        let [0, signature @ ..] = reader.value(tag::BIT_STRING)? else {
            return Err(der::Error::Value.into());
        };
        let mut fields = der::Reader::new(tbs.value);
        fields.optional(tag::explicit(0))?;
        let serial = Serial::from_content(fields.integer()?)?;
        fields.value(tag::SEQUENCE)?;
        let issuer = fields.element(tag::SEQUENCE)?;
        let mut validity = fields.nested(tag::SEQUENCE)?;
        let (not_before, not_after) = (Time::read(&mut validity)?, Time::read(&mut validity)?);
        let subject = fields.element(tag::SEQUENCE)?;
        let spki = fields.element(tag::SEQUENCE)?;
        let mut key = der::Reader::new(spki.value);
        key.value(tag::SEQUENCE)?;
        let [0, key_bits @ ..] = key.value(tag::BIT_STRING)? else {
            return Err(der::Error::Value.into());
        };

        let ranges = [subject.raw, issuer.raw, spki.raw, key_bits, tbs.raw, algorithm.raw, signature]
            .map(|part| range_in(&whole, part));
        let [subject, issuer, spki, key_bits, tbs, algorithm, signature] = ranges;
        let body = decoded.tbs_certificate();
        let usages = body.get_extension::<ExtendedKeyUsage>()?.map(|(_, usages)| usages.0).unwrap_or_default();
        let subject_key = body.get_extension::<SubjectKeyIdentifier>()?;
        let authority_key = body.get_extension::<AuthorityKeyIdentifier>()?;
        Ok(Self {
            serial,
            not_before,
            not_after,
            subject_text: body.subject().to_string(),
            subject_key_identifier: subject_key.map(|(_, id)| id.0.as_bytes().to_vec()),
            authority_key_identifier: authority_key
                .and_then(|(_, id)| id.key_identifier)
                .map(|id| id.as_bytes().to_vec()),
            key_usage: body.get_extension::<KeyUsage>()?.map(|(_, usage)| usage),
            is_ca: body.get_extension::<BasicConstraints>()?.is_some_and(|(_, basic)| basic.ca),
            ocsp_signing: usages.contains(&OCSP_SIGNING),
            ocsp_nocheck: body.extensions().is_some_and(|all| all.iter().any(|e| e.extn_id == OCSP_NOCHECK)),
            der: whole,
            subject,
            issuer,
            spki,
            key_bits,
            tbs,
            algorithm,
            signature,
        })
    }

    /// Reads the one certificate of a DER or PEM file.
    ///
    /// # Errors
    /// As [`Certificate::from_der`], and if there are none or several.
    pub fn from_file_bytes(bytes: &[u8]) -> Result<Self, CertificateError> {
        let all = Self::all_from_file_bytes(bytes)?;
        let count = all.len();
        <[Self; 1]>::try_from(all).map(|[one]| one).map_err(|_| CertificateError::Count(count))
    }

    /// Reads every certificate of a DER or PEM file, in its order.
    ///
    /// # Errors
    /// If there is none, or one of them cannot be read.
    pub fn all_from_file_bytes(bytes: &[u8]) -> Result<Vec<Self>, CertificateError> {
        if bytes.first() == Some(&tag::SEQUENCE) {
            return Ok(vec![Self::from_der(bytes)?]);
        }
        let blocks: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
        let blocks = blocks.map_err(|_| CertificateError::Format)?;
        if blocks.is_empty() {
            return Err(CertificateError::Format);
        }
        blocks.iter().map(|block| Self::from_der(block)).collect()
    }

    /// The certificate in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// DER of the subject's Name.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.der[self.subject.clone()]
    }

    /// The subject in the order and spelling of RFC 4514.
    #[must_use]
    pub fn subject_text(&self) -> &str {
        &self.subject_text
    }

    /// DER of the issuer's Name.
    #[must_use]
    pub fn issuer(&self) -> &[u8] {
        &self.der[self.issuer.clone()]
    }

    /// DER of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.der[self.spki.clone()]
    }

    /// The subject's public key bits, without tag, length and count of unused bits (OCSP-03).
    #[must_use]
    pub fn key_bits(&self) -> &[u8] {
        &self.der[self.key_bits.clone()]
    }

    /// What the signature covers, the AlgorithmIdentifier that made it, and the signature.
    #[must_use]
    pub fn signed_parts(&self) -> (&[u8], &[u8], &[u8]) {
        (&self.der[self.tbs.clone()], &self.der[self.algorithm.clone()], &self.der[self.signature.clone()])
    }

    /// The serial number.
    #[must_use]
    pub const fn serial(&self) -> Serial {
        self.serial
    }

    /// notBefore.
    #[must_use]
    pub const fn not_before(&self) -> Time {
        self.not_before
    }

    /// notAfter.
    #[must_use]
    pub const fn not_after(&self) -> Time {
        self.not_after
    }

    /// SHA-256 of the whole certificate.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        sha256(&self.der)
    }

    /// Whether keyUsage, where there is one, allows signing CRLs (CRL-86).
    #[must_use]
    pub fn may_sign_crls(&self) -> bool {
        self.key_usage.is_none_or(|usage| usage.crl_sign())
    }

    /// Whether keyUsage, where there is one, allows signing OCSP responses (OCSP-56, BR-19).
    #[must_use]
    pub fn may_sign_data(&self) -> bool {
        self.key_usage.is_none_or(|usage| usage.digital_signature())
    }

    /// The key identifier by which others name this certificate's key: the extension, or else SHA-1 of
    /// the key bits (RFC 5280 4.2.1.2, method 1).
    #[must_use]
    pub fn key_identifier(&self) -> Vec<u8> {
        let computed = || super::HashAlgorithm::Sha1.digest(self.key_bits()).as_ref().to_vec();
        self.subject_key_identifier.clone().unwrap_or_else(computed)
    }
}
