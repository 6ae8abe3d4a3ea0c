//! What can be said of a certificate: good, or revoked when and why.
//!
//! Invariant: [`Reason`] holds only values that may be published (never 7, which RFC 5280 5.3.1 leaves
//! unused, nor 8, which is a delta's word for "no longer listed").

use super::Time;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// `CRLReason` of RFC 5280 5.3.1.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Reason {
    /// No reason is given; on the wire this is the absence of one (CRL-41).
    #[default]
    Unspecified = 0,
    /// The key is, or may be, in other hands.
    KeyCompromise = 1,
    /// The key of a CA is, or may be, in other hands.
    CaCompromise = 2,
    /// The subject's name or other details changed.
    AffiliationChanged = 3,
    /// Another certificate took its place.
    Superseded = 4,
    /// No longer needed for its purpose.
    CessationOfOperation = 5,
    /// On hold: the only revocation that can be taken back.
    CertificateHold = 6,
    /// A privilege in it was withdrawn.
    PrivilegeWithdrawn = 9,
    /// The key of an attribute authority is, or may be, in other hands.
    AaCompromise = 10,
}

impl Reason {
    /// All of them, by number.
    pub const ALL: [Self; 9] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::CertificateHold,
        Self::PrivilegeWithdrawn,
        Self::AaCompromise,
    ];

    /// The number that stands in CRLs and OCSP responses.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason with this number; `None` for 7, 8 and anything above 10.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The name in RFC 5280.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::CertificateHold => "certificateHold",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
            Self::AaCompromise => "aACompromise",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no reason.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "{0:?} is no reason for a revocation: use a name of RFC 5280 (keyCompromise, superseded, …) or a plain cause \
     (key-compromised, token-lost, token-broken, token-formatted, details-changed, ceased)"
)]
pub struct UnknownReason(String);

/// The plain causes that a centre's staff knows, and what they are called on a CRL (REV-01 to REV-06).
pub const CAUSES: [(&str, Reason); 6] = [
    ("key-compromised", Reason::KeyCompromise),
    // REV-04: whoever found the token may use it.
    ("token-lost", Reason::KeyCompromise),
    // REV-02: the key is gone, not leaked.
    ("token-broken", Reason::Superseded),
    ("token-formatted", Reason::Superseded),
    ("details-changed", Reason::AffiliationChanged),
    ("ceased", Reason::CessationOfOperation),
];

/// Reads a name of RFC 5280 in any case, or a plain cause of [`CAUSES`].
impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        let named = Self::ALL.into_iter().find(|reason| reason.name().eq_ignore_ascii_case(text));
        let cause = || CAUSES.into_iter().find(|(cause, _)| cause.eq_ignore_ascii_case(text)).map(|(_, reason)| reason);
        named.or_else(cause).ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

/// That, when and why a certificate was revoked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Revocation {
    /// revocationDate of the CRL entry and revocationTime of the OCSP response (OCSP-47).
    pub at: Time,
    /// Why; [`Reason::CertificateHold`] for a suspension.
    pub reason: Reason,
    /// Since when the key is thought to be in other hands (RFC 5280 5.3.2).
    pub invalidity_date: Option<Time>,
}

/// Status of a certificate that is known to have been issued.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Not revoked.
    Good,
    /// Revoked or on hold.
    Revoked(Revocation),
}

impl Status {
    /// The revocation, if there is one.
    #[must_use]
    pub const fn revocation(&self) -> Option<&Revocation> {
        match self {
            Self::Good => None,
            Self::Revoked(revocation) => Some(revocation),
        }
    }

    /// Whether the certificate is suspended, so that it may become good again.
    #[must_use]
    pub fn is_hold(&self) -> bool {
        self.revocation().is_some_and(|revocation| revocation.reason == Reason::CertificateHold)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn crl_40_numbers_and_names_agree_and_7_and_8_are_nobody() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
            assert_eq!(reason.name().parse::<Reason>().unwrap(), reason);
        }
        for code in [7, 8, 11, 255] {
            assert_eq!(Reason::from_code(code), None);
        }
    }

    #[test]
    fn rev_01_to_06_plain_causes_map_to_reasons() {
        assert_eq!("token-lost".parse(), Ok(Reason::KeyCompromise));
        assert_eq!("TOKEN-BROKEN".parse(), Ok(Reason::Superseded));
        assert_eq!("details-changed".parse(), Ok(Reason::AffiliationChanged));
        assert!("removeFromCRL".parse::<Reason>().is_err());
    }
}
