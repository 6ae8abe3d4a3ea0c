//! Checking signatures: of certificates at start, of CRLs before they are published, of OCSP responses
//! that a client received.

use super::algorithm;
use crate::der::{self, tag};
use crate::pki::Certificate;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use thiserror::Error;

/// Why a signature is not accepted.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum VerifyError {
    /// The signature was made by another key or over other bytes.
    #[error("the signature does not match")]
    Mismatch,
    /// The public key cannot be read.
    #[error("the public key cannot be read")]
    Key,
    /// The algorithm is not one that can be checked here.
    #[error("the signature algorithm is not one that can be checked here")]
    Unsupported,
}

/// RSASSA-PSS with SHA-256 and a salt of 32 octets (ALG-13).
const PSS_SHA256: &[u8] = &[
    0x30, 0x41, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0a, 0x30, 0x34, 0xa0, 0x0f, 0x30, 0x0d, 6, 9, 0x60,
    0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 0xa1, 0x1c, 0x30, 0x1a, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8,
    0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 0xa2, 3, 2, 1, 0x20,
];

/// P-521 and SHA-1 are not among them: ring checks neither.
fn algorithm_for(identifier: &[u8], key_len: usize) -> Option<&'static dyn VerificationAlgorithm> {
    // An uncompressed point is one octet and two coordinates.
    const P256_POINT: usize = 65;
    const P384_POINT: usize = 97;
    Some(match (identifier, key_len) {
        (algorithm::ECDSA_SHA256, P256_POINT) => &signature::ECDSA_P256_SHA256_ASN1,
        (algorithm::ECDSA_SHA384, P256_POINT) => &signature::ECDSA_P256_SHA384_ASN1,
        (algorithm::ECDSA_SHA256, P384_POINT) => &signature::ECDSA_P384_SHA256_ASN1,
        (algorithm::ECDSA_SHA384, P384_POINT) => &signature::ECDSA_P384_SHA384_ASN1,
        (algorithm::RSA_SHA256, _) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (algorithm::RSA_SHA384, _) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (algorithm::RSA_SHA512, _) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (PSS_SHA256, _) => &signature::RSA_PSS_2048_8192_SHA256,
        (algorithm::ED25519, _) => &signature::ED25519,
        _ => return None,
    })
}

/// Checks `made` over `message`, with the key of a DER SubjectPublicKeyInfo and the DER
/// AlgorithmIdentifier that came with the signature.
///
/// # Errors
/// [`VerifyError`].
pub fn signature(spki: &[u8], algorithm: &[u8], message: &[u8], made: &[u8]) -> Result<(), VerifyError> {
    let mut fields = der::outer(spki, tag::SEQUENCE).map_err(|_| VerifyError::Key)?;
    fields.value(tag::SEQUENCE).map_err(|_| VerifyError::Key)?;
    let Ok([0, key @ ..]) = fields.value(tag::BIT_STRING) else {
        return Err(VerifyError::Key);
    };
    let verification = algorithm_for(algorithm, key.len()).ok_or(VerifyError::Unsupported)?;
    UnparsedPublicKey::new(verification, key).verify(message, made).map_err(|_| VerifyError::Mismatch)
}

/// Checks that the key of `ca` signed `certificate` and that the names chain.
///
/// # Errors
/// [`VerifyError::Mismatch`] also when the names do not chain.
pub fn issued_by(certificate: &Certificate, ca: &Certificate) -> Result<(), VerifyError> {
    if certificate.issuer() != ca.subject() {
        return Err(VerifyError::Mismatch);
    }
    let (tbs, algorithm, made) = certificate.signed_parts();
    signature(ca.spki(), algorithm, tbs, made)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sign::{KeyError, Signer};
    use rcgen::{CertificateParams, KeyPair};
    use std::os::unix::fs::PermissionsExt;

    fn certificate(key: &KeyPair) -> Certificate {
        let made = CertificateParams::new(Vec::new()).unwrap().self_signed(key).unwrap();
        Certificate::from_der(made.der()).unwrap()
    }

    #[test]
    fn quick_keys_sign_what_verifies_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.pem");
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            std::fs::write(&file, key.serialize_pem()).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            let own = certificate(&key);
            let signer = Signer::from_file(&file, &own).unwrap();
            let made = signer.sign(b"message").unwrap();
            signature(own.spki(), signer.algorithm(), b"message", &made).unwrap();
            assert_eq!(signature(own.spki(), signer.algorithm(), b"massage", &made), Err(VerifyError::Mismatch));
            issued_by(&own, &own).unwrap();
            let stranger = certificate(&KeyPair::generate_for(algorithm).unwrap());
            assert!(matches!(Signer::from_file(&file, &stranger), Err(KeyError::Mismatch { .. })));
            assert_eq!(issued_by(&own, &stranger), Err(VerifyError::Mismatch));
        }
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.pem");
        let key = KeyPair::generate().unwrap();
        std::fs::write(&file, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Signer::from_file(&file, &certificate(&key)).unwrap_err().to_string();
        assert!(refused.contains("mode 640") && refused.contains("chmod 600"), "{refused}");
    }
}
