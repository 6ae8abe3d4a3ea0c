//! Hash algorithms that a CertID may name (OCSP-07): SHA by ring, those of the GOST world by RustCrypto's crates.
//!
//! Invariant: the length of a digest follows from the algorithm, never from the wire (ALG-41).
//!
//! GOST 34.311-95 under its Kazakh name 1.2.398.3.10.1.3.1 (ALG-05) is not here. It is the function of GOST R
//! 34.11-94, but that standard leaves the S-box to each country, no document that can be had says which one the
//! name means, and programs that verify Kazakh signatures disagree: some take the standard's test parameters
//! (RFC 4357 11.2), others CryptoPro's. Such a request is answered `unauthorized` (OCSP-08).

use gost94::Gost94CryptoPro;
use ring::digest;
use streebog::{Digest as _, Streebog256, Streebog512};

/// A hash algorithm of a CertID. The same function under two names is two algorithms: answers repeat the name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum HashAlgorithm {
    /// SHA-1: a lookup key here, not a signature (SEC-07).
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// GOST R 34.11-94 with CryptoPro's S-box, which is what its name means in certificates (RFC 4490 2.1,
    /// RFC 4357 11.2).
    Gost94,
    /// GOST R 34.11-2012 with 256 bits (RFC 6986).
    Streebog256,
    /// GOST R 34.11-2012 with 512 bits.
    Streebog512,
    /// The same function by the name that it has in Kazakhstan, where it is GOST R 34.11-2015 with 256 bits.
    KzStreebog256,
    /// The same with 512 bits.
    KzStreebog512,
}

/// DER of the OBJECT IDENTIFIERs (ALG-01 to ALG-05).
mod oid {
    pub(super) const SHA1: &[u8] = &[6, 5, 0x2b, 0x0e, 3, 2, 0x1a];
    pub(super) const SHA256: &[u8] = &[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
    pub(super) const SHA384: &[u8] = &[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
    pub(super) const SHA512: &[u8] = &[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3];
    pub(super) const GOST94: &[u8] = &[6, 6, 0x2a, 0x85, 3, 2, 2, 9];
    pub(super) const STREEBOG256: &[u8] = &[6, 8, 0x2a, 0x85, 3, 7, 1, 1, 2, 2];
    pub(super) const STREEBOG512: &[u8] = &[6, 8, 0x2a, 0x85, 3, 7, 1, 1, 2, 3];
    pub(super) const KZ_STREEBOG256: &[u8] = &[6, 8, 0x2a, 0x83, 0x0e, 3, 0x0a, 1, 3, 2];
    pub(super) const KZ_STREEBOG512: &[u8] = &[6, 8, 0x2a, 0x83, 0x0e, 3, 0x0a, 1, 3, 3];
}

/// Octets of the longest digest.
const MAX_LEN: usize = 64;

/// A digest, as long as its algorithm makes it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Digest {
    /// Zero beyond `len`.
    octets: [u8; MAX_LEN],
    len: usize,
}

impl Digest {
    fn new(digest: &[u8]) -> Self {
        let mut octets = [0; MAX_LEN];
        let len = digest.len().min(MAX_LEN);
        octets[..len].copy_from_slice(&digest[..len]);
        Self { octets, len }
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

impl HashAlgorithm {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Sha1,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::Gost94,
        Self::Streebog256,
        Self::Streebog512,
        Self::KzStreebog256,
        Self::KzStreebog512,
    ];

    /// DER of the OBJECT IDENTIFIER.
    #[must_use]
    pub const fn oid(self) -> &'static [u8] {
        match self {
            Self::Sha1 => oid::SHA1,
            Self::Sha256 => oid::SHA256,
            Self::Sha384 => oid::SHA384,
            Self::Sha512 => oid::SHA512,
            Self::Gost94 => oid::GOST94,
            Self::Streebog256 => oid::STREEBOG256,
            Self::Streebog512 => oid::STREEBOG512,
            Self::KzStreebog256 => oid::KZ_STREEBOG256,
            Self::KzStreebog512 => oid::KZ_STREEBOG512,
        }
    }

    /// The algorithm with this DER OBJECT IDENTIFIER.
    #[must_use]
    pub fn from_oid(der: &[u8]) -> Option<Self> {
        Some(match der {
            oid::SHA1 => Self::Sha1,
            oid::SHA256 => Self::Sha256,
            oid::SHA384 => Self::Sha384,
            oid::SHA512 => Self::Sha512,
            oid::GOST94 => Self::Gost94,
            oid::STREEBOG256 => Self::Streebog256,
            oid::STREEBOG512 => Self::Streebog512,
            oid::KZ_STREEBOG256 => Self::KzStreebog256,
            oid::KZ_STREEBOG512 => Self::KzStreebog512,
            _ => return None,
        })
    }

    /// Octets of a digest.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 | Self::Gost94 | Self::Streebog256 | Self::KzStreebog256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 | Self::Streebog512 | Self::KzStreebog512 => 64,
        }
    }

    /// The name that people write.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
            Self::Gost94 => "GOST R 34.11-94",
            Self::Streebog256 => "Streebog-256",
            Self::Streebog512 => "Streebog-512",
            Self::KzStreebog256 => "Streebog-256 (KZ)",
            Self::KzStreebog512 => "Streebog-512 (KZ)",
        }
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let sha = |algorithm| Digest::new(digest::digest(algorithm, bytes).as_ref());
        match self {
            Self::Sha1 => sha(&digest::SHA1_FOR_LEGACY_USE_ONLY),
            Self::Sha256 => sha(&digest::SHA256),
            Self::Sha384 => sha(&digest::SHA384),
            Self::Sha512 => sha(&digest::SHA512),
            Self::Gost94 => Digest::new(&Gost94CryptoPro::digest(bytes)),
            Self::Streebog256 | Self::KzStreebog256 => Digest::new(&Streebog256::digest(bytes)),
            Self::Streebog512 | Self::KzStreebog512 => Digest::new(&Streebog512::digest(bytes)),
        }
    }
}

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ::der::{Encode, asn1::ObjectIdentifier};

    fn hex(digest: &Digest) -> String {
        digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
    }

    #[test]
    fn ocsp_07_names_are_those_of_the_standards() {
        let names = [
            "1.3.14.3.2.26",
            "2.16.840.1.101.3.4.2.1",
            "2.16.840.1.101.3.4.2.2",
            "2.16.840.1.101.3.4.2.3",
            "1.2.643.2.2.9",
            "1.2.643.7.1.1.2.2",
            "1.2.643.7.1.1.2.3",
            "1.2.398.3.10.1.3.2",
            "1.2.398.3.10.1.3.3",
        ];
        for (algorithm, name) in HashAlgorithm::ALL.into_iter().zip(names) {
            let name: ObjectIdentifier = name.parse().unwrap();
            assert_eq!(algorithm.oid(), name.to_der().unwrap(), "{}", algorithm.name());
            assert_eq!(HashAlgorithm::from_oid(algorithm.oid()), Some(algorithm));
            assert_eq!(algorithm.digest(b"x").as_ref().len(), algorithm.len());
        }
        let kz_gost95 = [6, 8, 0x2a, 0x83, 0x0e, 3, 0x0a, 1, 3, 1];
        assert_eq!(HashAlgorithm::from_oid(&kz_gost95), None);
    }

    /// Of "message digest" what every implementation with CryptoPro's S-box gives; of the first message of
    /// RFC 6986 10.1 its digests, which that text prints from the last octet to the first. OpenSSL's GOST
    /// engine says the same of all three (tests/it/interop.rs asks with it).
    #[test]
    fn ocsp_07_gost_digests_are_those_that_certificates_use() {
        let gost94 = hex(&HashAlgorithm::Gost94.digest(b"message digest"));
        assert_eq!(gost94, "bc6041dd2aa401ebfa6e9886734174febdb4729aa972d60f549ac39b29721ba0");
        let message = b"012345678901234567890123456789012345678901234567890123456789012";
        let short = "9d151eefd8590b89daa6ba6cb74af9275dd051026bb149a452fd84e5e57b5500";
        let long = "1b54d01a4af5b9d5cc3d86d68d285462b19abc2475222f35c085122be4ba1ffa\
                    00ad30f8767b3a82384c6574f024c311e2a481332b08ef7f41797891c1646f48";
        for algorithm in [HashAlgorithm::Streebog256, HashAlgorithm::KzStreebog256] {
            assert_eq!(hex(&algorithm.digest(message)), short);
        }
        for algorithm in [HashAlgorithm::Streebog512, HashAlgorithm::KzStreebog512] {
            assert_eq!(hex(&algorithm.digest(message)), long);
        }
    }
}
