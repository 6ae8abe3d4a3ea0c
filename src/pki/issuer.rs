//! An issuer: a CA name and key whose certificates Jarchy answers for.
//!
//! Invariant: an issuer is found by both its hashes, because two CAs may share a name (re-key) or a key
//! (cross-certificate) (OCSP-04).

use super::{Certificate, HashAlgorithm};
use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The name by which URLs, the database and the config call an issuer: `[a-z0-9][a-z0-9_]*`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IssuerName(String);

/// A text that cannot name an issuer.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} cannot name an issuer: use lower-case letters, digits and _, not _ first")]
pub struct InvalidIssuerName(String);

impl FromStr for IssuerName {
    type Err = InvalidIssuerName;

    fn from_str(text: &str) -> Result<Self, InvalidIssuerName> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if text.is_empty() || text.starts_with('_') || !text.chars().all(allowed) {
            return Err(InvalidIssuerName(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl IssuerName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IssuerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for IssuerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a CertID says of the issuer, under one hash algorithm.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct IssuerHashes {
    /// The algorithm of both.
    pub algorithm: HashAlgorithm,
    /// Hash of the DER of the issuer's Name.
    pub name: Vec<u8>,
    /// Hash of the issuer's public key bits.
    pub key: Vec<u8>,
}

/// An issuer with its certificate.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// What URLs, database and config call it.
    pub name: IssuerName,
    /// The CA's certificate.
    pub certificate: Certificate,
}

impl Issuer {
    /// The hashes under which requests name this issuer.
    #[must_use]
    pub fn hashes(&self, algorithm: HashAlgorithm) -> IssuerHashes {
        IssuerHashes {
            algorithm,
            name: algorithm.digest(self.certificate.subject()).as_ref().to_vec(),
            key: algorithm.digest(self.certificate.key_bits()).as_ref().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_safe_in_urls() {
        for good in ["demo", "0", "ca_2026", "a_"] {
            assert!(good.parse::<IssuerName>().is_ok(), "{good}");
        }
        for bad in ["", "_a", "Demo", "a-b", "a/b", "é", "a b", ".."] {
            assert!(bad.parse::<IssuerName>().is_err(), "{bad}");
        }
    }
}
