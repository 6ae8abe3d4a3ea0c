//! A key file and the certificate that it belongs to become a [`Signer`].
//!
//! Reads PKCS#8 (with or without the public key), SEC1 and PKCS#1, in PEM or DER. The public key always
//! comes from the certificate, so that a key that does not match it cannot be loaded.
//!
//! Invariant: the file's bytes are wiped from memory, and a file that others may read is refused.

use super::{Key, Signer, algorithm};
use crate::pki::Certificate;
use pkcs8::PrivateKeyInfoRef;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use sec1::EcPrivateKey;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

/// Why a key file cannot be used, and how to mend it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It is encrypted.
    #[error(
        "{0}: the private key is encrypted, and there is nobody to ask for its password; \
         write an unencrypted copy that only the service may read: (umask 077; openssl pkey -in ENCRYPTED -out {0})"
    )]
    Encrypted(PathBuf),
    /// It holds no private key in a form that is known.
    #[error(
        "{0}: no private key found (expected PKCS#8, SEC1 or PKCS#1, in PEM or DER); \
         `openssl pkey -in {0} -noout -text` shows what is in it"
    )]
    Format(PathBuf),
    /// It belongs to another certificate.
    #[error("{path}: this private key does not belong to the certificate of \"{subject}\" (serial {serial})")]
    Mismatch {
        /// The key file.
        path: PathBuf,
        /// The certificate's subject.
        subject: String,
        /// The certificate's serial number.
        serial: crate::pki::Serial,
    },
    /// Others than its owner may read it.
    #[error("{path}: others than its owner may use this private key (mode {mode:03o}); run: chmod 600 {path}")]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// The permission bits.
        mode: u32,
    },
    /// It names a key in a token.
    #[error(
        "{0}: keys are read from files, not from tokens; the CA's key can stay in its token where the CA's own software \
         signs the CRLs: leave it out here, and give OCSP a delegate with a key in a file"
    )]
    Token(PathBuf),
    /// It cannot be read.
    #[error("{path}: cannot read the private key: {source}")]
    Read {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate's key is of a kind that cannot sign here.
    #[error(
        "{path}: the certificate of \"{subject}\" has a kind of key that cannot be used here: \
         use P-256, P-384, Ed25519, or RSA of 2048 to 4096 bits"
    )]
    Unsupported {
        /// The key file.
        path: PathBuf,
        /// The certificate's subject.
        subject: String,
    },
}

/// DER of the AlgorithmIdentifier in a SubjectPublicKeyInfo (ALG-10, ALG-15, ALG-16).
const P256: &[u8] =
    &[0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22];
const RSA: &[u8] = &[0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];

pub(super) fn load(path: &Path, certificate: &Certificate) -> Result<Signer, KeyError> {
    let bytes = read(path)?;
    let key = parse(path, &bytes)?;
    let mismatch = || KeyError::Mismatch {
        path: path.to_owned(),
        subject: certificate.subject_text().to_owned(),
        serial: certificate.serial(),
    };
    let unsupported =
        || KeyError::Unsupported { path: path.to_owned(), subject: certificate.subject_text().to_owned() };
    let public_key = certificate.key_bits();
    let kind = crate::der::outer(certificate.spki(), crate::der::tag::SEQUENCE)
        .and_then(|mut spki| spki.element(crate::der::tag::SEQUENCE))
        .map_err(|_| unsupported())?
        .raw;
    let random = SystemRandom::new();
    let key = match kind {
        P256 | P384 => {
            let (signing, algorithm, len) = if kind == P256 {
                (&ECDSA_P256_SHA256_ASN1_SIGNING, algorithm::ECDSA_SHA256, 32)
            } else {
                (&ECDSA_P384_SHA384_ASN1_SIGNING, algorithm::ECDSA_SHA384, 48)
            };
            let scalar = ec_scalar(&key, len).ok_or_else(mismatch)?;
            let pair = EcdsaKeyPair::from_private_key_and_public_key(signing, &scalar, public_key, &random)
                .map_err(|_| mismatch())?;
            Key::Ecdsa(pair, algorithm)
        }
        RSA => {
            let pair = match &key {
                PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
                PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
                _ => return Err(mismatch()),
            };
            // ring says the same of a key of another kind and of one of an unusable size; the size of
            // the certificate's key tells the two apart.
            let usable = (270..=540).contains(&public_key.len());
            let pair = pair.map_err(|_| if usable { mismatch() } else { unsupported() })?;
            if pair.public().as_ref() != public_key {
                return Err(mismatch());
            }
            Key::Rsa(pair)
        }
        algorithm::ED25519 => {
            let seed = ed25519_seed(&key).ok_or_else(mismatch)?;
            let pair = Ed25519KeyPair::from_seed_and_public_key(&seed, public_key).map_err(|_| mismatch())?;
            Key::Ed25519(pair)
        }
        _ => return Err(unsupported()),
    };
    Ok(Signer::new(key))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let is_token = path.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"pkcs11:"));
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound if is_token => KeyError::Token(path.to_owned()),
        _ => KeyError::Read { path: path.to_owned(), source },
    };
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Permissions { path: path.to_owned(), mode });
    }
    // Room for the whole file from the start: growing would leave copies behind.
    let len = usize::try_from(metadata.len()).unwrap_or(0).min(1 << 20);
    let mut bytes = Zeroizing::new(Vec::with_capacity(len + 1));
    file.by_ref().take(1 << 20).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<PrivateKeyDer<'a>, KeyError> {
    if bytes.first() == Some(&crate::der::tag::SEQUENCE) {
        return PrivateKeyDer::try_from(bytes).map_err(|_| KeyError::Format(path.to_owned()));
    }
    let encrypted = bytes.windows(9).any(|window| window == b"ENCRYPTED");
    PrivateKeyDer::from_pem_slice(bytes).map_err(|_| {
        let path = path.to_owned();
        if encrypted { KeyError::Encrypted(path) } else { KeyError::Format(path) }
    })
}

/// The private number of an EC key, padded to the length of its field: some tools drop leading zeros.
fn ec_scalar(key: &PrivateKeyDer<'_>, len: usize) -> Option<Zeroizing<Vec<u8>>> {
    let sec1 = match key {
        PrivateKeyDer::Sec1(der) => der.secret_sec1_der(),
        PrivateKeyDer::Pkcs8(der) => PrivateKeyInfoRef::try_from(der.secret_pkcs8_der()).ok()?.private_key.as_bytes(),
        _ => return None,
    };
    let scalar = EcPrivateKey::try_from(sec1).ok()?.private_key;
    let mut padded = Zeroizing::new(vec![0; len.checked_sub(scalar.len())?]);
    padded.reserve_exact(scalar.len());
    padded.extend_from_slice(scalar);
    Some(padded)
}

fn ed25519_seed(key: &PrivateKeyDer<'_>) -> Option<Zeroizing<Vec<u8>>> {
    let PrivateKeyDer::Pkcs8(der) = key else { return None };
    let info = PrivateKeyInfoRef::try_from(der.secret_pkcs8_der()).ok()?;
    // RFC 8410 section 7: an OCTET STRING within the OCTET STRING.
    let mut inner = crate::der::Reader::new(info.private_key.as_bytes());
    inner.value(crate::der::tag::OCTET_STRING).ok().map(|seed| Zeroizing::new(seed.to_vec()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sign::verify;

    const PKI: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/pki/");

    fn certificate(name: &str) -> Certificate {
        Certificate::from_file_bytes(&std::fs::read(format!("{PKI}{name}")).unwrap()).unwrap()
    }

    /// Loads these octets as the key of that certificate, from a file as private as a key should be.
    fn load_bytes(key: &[u8], of: &Certificate) -> Result<Signer, KeyError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ocsp.key");
        std::fs::write(&file, key).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        load(&file, of)
    }

    fn load_copy(key: &str, of: &Certificate) -> Result<Signer, KeyError> {
        load_bytes(&std::fs::read(format!("{PKI}{key}")).unwrap(), of)
    }

    fn refusal(key: &str, of: &Certificate) -> String {
        load_copy(key, of).unwrap_err().to_string()
    }

    #[test]
    fn every_form_of_key_file_signs_what_its_certificate_verifies() {
        for (key, of) in [
            ("ocsp-p256.key", "ocsp-p256.pem"),
            ("keys/p256.pkcs8.der", "ocsp-p256.pem"),
            ("keys/p256.pkcs8-without-public-key.pem", "ocsp-p256.pem"),
            ("keys/p256.sec1.pem", "ocsp-p256.pem"),
            ("keys/p256.sec1-after-parameters.pem", "ocsp-p256.pem"),
            ("keys/p256.sec1-without-public-key.pem", "ocsp-p256.pem"),
            ("keys/p256.after-certificate.pem", "ocsp-p256.pem"),
            ("ocsp-p384.key", "ocsp-p384.pem"),
            ("ocsp-ed25519.key", "ocsp-ed25519.pem"),
            ("ocsp-rsa2048.key", "ocsp-rsa2048.pem"),
            ("keys/rsa2048.pkcs1.pem", "ocsp-rsa2048.pem"),
        ] {
            let of = certificate(of);
            let signer = load_copy(key, &of).unwrap_or_else(|error| panic!("{key}: {error}"));
            let made = signer.sign(b"message").unwrap();
            verify::signature(of.spki(), signer.algorithm(), b"message", &made)
                .unwrap_or_else(|error| panic!("{key}: {error}"));
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_named_as_such_whatever_its_kind() {
        let certificates = ["ocsp-p256.pem", "ocsp-p384.pem", "ocsp-ed25519.pem", "ocsp-rsa2048.pem"].map(certificate);
        for key in ["ca-p256.key", "ca-p384.key", "ca-ed25519.key", "ca-rsa2048.key"] {
            for of in &certificates {
                let refused = refusal(key, of);
                let named = format!("does not belong to the certificate of \"{}\"", of.subject_text());
                assert!(refused.contains(&named), "{key}: {refused}");
            }
        }
    }

    #[test]
    fn an_encrypted_key_is_refused_with_the_command_that_mends_it() {
        for key in ["keys/encrypted.pkcs8.pem", "keys/encrypted.sec1.pem"] {
            let refused = refusal(key, &certificate("ocsp-p256.pem"));
            assert!(refused.contains("is encrypted") && refused.contains("openssl pkey -in"), "{key}: {refused}");
        }
    }

    #[test]
    fn a_folder_and_a_key_in_a_token_are_called_what_they_are() {
        let (of, dir) = (certificate("ocsp-p256.pem"), tempfile::tempdir().unwrap());
        let refused = load(dir.path(), &of).unwrap_err().to_string();
        assert!(refused.contains("is a directory") && !refused.contains("chmod"), "{refused}");
        let refused = load(&dir.path().join("pkcs11:token=ca;object=key"), &of).unwrap_err().to_string();
        assert!(refused.contains("keys are read from files") && refused.contains("delegate"), "{refused}");
    }

    #[test]
    fn too_short_an_rsa_key_is_refused_by_the_sizes_that_would_do() {
        let refused = refusal("keys/rsa1024.pem", &certificate("keys/rsa1024.certificate.pem"));
        assert!(refused.contains("RSA of 2048 to 4096 bits"), "{refused}");
    }

    #[test]
    fn what_is_no_key_file_is_refused_and_never_a_panic() {
        let of = certificate("ocsp-p256.pem");
        let certificate_file = std::fs::read(format!("{PKI}ocsp-p256.pem")).unwrap();
        let der = std::fs::read(format!("{PKI}keys/p256.pkcs8.der")).unwrap();
        for bytes in [&b""[..], b"0", b"hello", b"-----BEGIN PRIVATE KEY-----\n", &certificate_file, of.der()] {
            let refused = load_bytes(bytes, &of).unwrap_err().to_string();
            assert!(refused.contains("no private key found"), "{refused}");
        }
        for cut in 0..der.len() {
            assert!(load_bytes(&der[..cut], &of).is_err(), "cut to {cut}");
        }
        for at in 0..der.len() {
            let mut changed = der.clone();
            changed[at] ^= 0xff;
            // Some octets do not matter, such as those of the public key, which comes from the certificate.
            if let Ok(signer) = load_bytes(&changed, &of) {
                let made = signer.sign(b"message").unwrap();
                assert_eq!(verify::signature(of.spki(), signer.algorithm(), b"message", &made), Ok(()), "{at}");
            }
        }
    }
}
