//! The profiles: what a kind of CA's rules demand of lifetimes, caching, hold and absent serials, as data.
//!
//! Goes in: the word in `profile = "…"`. Comes out: a [`Policy`], whose values are the defaults of an
//! issuer's settings and whose limits are what those settings may not pass.

use crate::pki::Reason;
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// The kind of rules that an issuer lives under.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// A CA that only its owner's rules bind.
    #[default]
    Private,
    /// CA/Browser Forum's baseline requirements for TLS certificates.
    TlsBr,
    /// A trust service under ETSI EN 319 411.
    Etsi,
    /// A national e-signature CA, which by default behaves as an ETSI one.
    National,
}

/// What is said of a serial that the issuer never issued. It is never `good` (OCSP-33).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum NotIssued {
    /// The unsigned error `unauthorized`.
    Unauthorized,
    /// A signed response that says `unknown`.
    Unknown,
    /// A signed response that says `revoked` since 1970, and that this responder does so (OCSP-35).
    Revoked,
}

/// What is said of a certificate whose notBefore lies ahead.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum NotYetValid {
    /// Its status (REV-14).
    #[default]
    Status,
    /// That it is unknown.
    Unknown,
}

/// How responses name their signer (OCSP-12).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum ResponderId {
    /// By the hash of its key.
    #[default]
    ByKey,
    /// By its name, for old clients.
    ByName,
}

/// Whether a request's nonce is answered.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Nonce {
    /// With a signature of its own, up to `live_rate`; beyond it as `cached-reply`.
    #[default]
    Live,
    /// With the signed answer that is at hand, without the nonce (OCSP-65), not to be kept by HTTP caches.
    CachedReply,
    /// As though it had not been sent (OCSP-65).
    Off,
}

/// Which answers are signed before anybody asks for them.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Presign {
    /// None.
    None,
    /// Those that were asked for since they were last signed.
    #[default]
    Hot,
    /// Those of every certificate that has not expired.
    All,
}

/// What decides to which of several CRLs a certificate belongs.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum ShardBy {
    /// A hash of its serial number, see `crl::shard_of`.
    #[default]
    Hash,
    /// The database's column `shard`, and the hash where that says nothing.
    Database,
    /// Whether it is a CA's, by the database's column `ca`: two lists (CRL-76).
    Kind,
}

/// As it is written in the config.
impl fmt::Display for ShardBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hash => "hash",
            Self::Database => "database",
            Self::Kind => "kind",
        })
    }
}

/// Whether certificates may be put on hold.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// `certificateHold` is published as it is.
    Allowed,
    /// `certificateHold` must not be published (BR-15).
    Refused,
}

/// A profile's defaults and limits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// nextUpdate − thisUpdate of an OCSP response.
    pub ocsp_lifetime: Duration,
    /// The shortest and the longest that may be configured for it.
    pub ocsp_lifetime_limits: (Duration, Duration),
    /// The longest max-age of an answer `good`.
    pub max_age: Duration,
    /// The longest max-age of what may change any moment: a hold, a serial that is not known.
    pub max_age_uncertain: Duration,
    /// What is said of serials that were not issued.
    pub not_issued: NotIssued,
    /// Whether the certificate of a delegate must carry id-pkix-ocsp-nocheck (BR-18).
    pub requires_nocheck: bool,
    /// Whether certificates may be on hold.
    pub hold: Hold,
    /// The reasons that may be published; any other is published as none.
    pub reasons: &'static [Reason],
    /// Whether answers tell since when expired certificates are answered for (OCSP-74).
    pub archive_cutoff: bool,
    /// Whether answers carry the hash of the certificate (CH-01).
    pub cert_hash: bool,
    /// Whether answers about revoked certificates carry the invalidity date.
    pub invalidity_date: bool,
    /// Whether a CA's life may end with answers and a CRL that never lapse (ETSI-07, ETSI-24).
    pub end_of_life: bool,
    /// Time from one regular complete CRL to the next.
    pub crl_interval: Duration,
    /// The longest that may be configured for it.
    pub crl_interval_limit: Duration,
    /// nextUpdate − thisUpdate of a complete CRL.
    pub crl_lifetime: Duration,
    /// The longest that may be configured for it.
    pub crl_lifetime_limit: Duration,
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// Where no rule sets a limit: longer than any list or answer should be believed.
const YEAR: Duration = Duration::from_secs(366 * 86_400);

const PRIVATE: Policy = Policy {
    ocsp_lifetime: HOUR,
    ocsp_lifetime_limits: (MINUTE, YEAR),
    max_age: MINUTE,
    max_age_uncertain: MINUTE,
    not_issued: NotIssued::Unauthorized,
    requires_nocheck: false,
    hold: Hold::Allowed,
    reasons: &Reason::ALL,
    archive_cutoff: true,
    cert_hash: false,
    invalidity_date: true,
    end_of_life: false,
    crl_interval: HOUR.saturating_mul(6),
    crl_interval_limit: YEAR,
    crl_lifetime: HOUR.saturating_mul(48),
    crl_lifetime_limit: YEAR,
};

const ETSI: Policy = Policy {
    not_issued: NotIssued::Unknown,
    // CH-04: validators of old signatures trust an answer about an expired certificate by either of these.
    cert_hash: true,
    end_of_life: true,
    crl_interval: HOUR,
    // ETSI-06: a list at least every 24 h.
    crl_interval_limit: DAY,
    crl_lifetime: DAY,
    ..PRIVATE
};

const TLS_BR: Policy = Policy {
    ocsp_lifetime: HOUR.saturating_mul(48),
    // BR-09 sets 8 h; re-signing at half-life keeps BR-10 up to 7 days (DES-01).
    ocsp_lifetime_limits: (HOUR.saturating_mul(8), DAY.saturating_mul(7)),
    max_age: HOUR,
    // There is no hold, and what is not known is never kept longer.
    max_age_uncertain: MINUTE,
    not_issued: NotIssued::Unauthorized,
    requires_nocheck: true,
    hold: Hold::Refused,
    // CRL-42.
    reasons: &[
        Reason::Unspecified,
        Reason::KeyCompromise,
        Reason::AffiliationChanged,
        Reason::Superseded,
        Reason::CessationOfOperation,
        Reason::PrivilegeWithdrawn,
    ],
    archive_cutoff: false,
    cert_hash: false,
    invalidity_date: false,
    end_of_life: false,
    crl_interval: HOUR.saturating_mul(6),
    // BR-06: a list within 24 h of recording a revocation, nextUpdate at most 10 days ahead.
    crl_interval_limit: DAY,
    crl_lifetime: DAY.saturating_mul(7),
    crl_lifetime_limit: DAY.saturating_mul(10),
};

impl Profile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Private, Self::TlsBr, Self::Etsi, Self::National];

    /// Its defaults and limits.
    #[must_use]
    pub const fn policy(self) -> &'static Policy {
        match self {
            Self::Private => &PRIVATE,
            Self::TlsBr => &TLS_BR,
            Self::Etsi | Self::National => &ETSI,
        }
    }
}

/// As it is written in the config.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "private",
            Self::TlsBr => "tls-br",
            Self::Etsi => "etsi",
            Self::National => "national",
        })
    }
}

/// As it is written in the config.
impl fmt::Display for NotIssued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unauthorized => "unauthorized",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
        })
    }
}

/// As it is written in the config.
impl fmt::Display for NotYetValid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "status",
            Self::Unknown => "unknown",
        })
    }
}

/// As it is written in the config.
impl fmt::Display for ResponderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByKey => "by-key",
            Self::ByName => "by-name",
        })
    }
}

/// As it is written in the config.
impl fmt::Display for Presign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Hot => "hot",
            Self::All => "all",
        })
    }
}

/// As it is written in the config.
impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::CachedReply => "cached-reply",
            Self::Off => "off",
        })
    }
}

/// As it is written in the config.
impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profiles_defaults_keep_its_own_limits() {
        for profile in Profile::ALL {
            let policy = profile.policy();
            let (shortest, longest) = policy.ocsp_lifetime_limits;
            assert!(shortest <= policy.ocsp_lifetime && policy.ocsp_lifetime <= longest, "{profile}");
            assert!(policy.max_age < policy.ocsp_lifetime, "{profile}");
            assert!(policy.crl_interval <= policy.crl_interval_limit, "{profile}");
            assert!(policy.crl_interval < policy.crl_lifetime, "{profile}");
            assert!(policy.crl_lifetime <= policy.crl_lifetime_limit, "{profile}");
        }
    }

    #[test]
    fn br_09_br_15_tls_certificates_get_long_lives_and_no_hold() {
        let policy = Profile::TlsBr.policy();
        assert_eq!(policy.ocsp_lifetime_limits.0, HOUR * 8);
        assert_eq!(policy.hold, Hold::Refused);
    }
}
