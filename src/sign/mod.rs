//! Signing keys: from a key file to signatures over OCSP responses and CRLs.
//!
//! Goes in: the bytes to sign. Comes out: a signature and the AlgorithmIdentifier that names how it was
//! made. It knows nothing of what it signs.
//!
//! Invariants: a [`Signer`] belongs to the certificate that it was loaded for (the keys were compared);
//! private keys are never printed; a slow key never holds up an HTTP thread, and no more callers wait for
//! it than [`WAITING`].

mod keyfile;
pub mod verify;

pub use keyfile::KeyError;

use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::pki::{Certificate, ClockDoubt, ClockGuard};

/// DER of the AlgorithmIdentifiers that signatures carry (ALG-11, ALG-14, ALG-16).
mod algorithm {
    pub(super) const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    pub(super) const ECDSA_SHA384: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
    pub(super) const RSA_SHA256: &[u8] = &[0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b, 5, 0];
    pub(super) const RSA_SHA384: &[u8] = &[0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0c, 5, 0];
    pub(super) const RSA_SHA512: &[u8] = &[0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0d, 5, 0];
    pub(super) const ED25519: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
}

/// Slow signatures that are made at once: one a core is all that a core can do.
const IN_FLIGHT: usize = 2;
/// Callers that may wait for a slow key; at 0.6 ms a signature the last of them waits about 40 ms.
const WAITING: usize = 128;

/// Why there is no signature.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum SignError {
    /// More callers wait for this slow key than can be served soon.
    #[error("more signatures are asked for than this key can make")]
    Overloaded,
    /// The key refused.
    #[error("the key could not make a signature")]
    Failed,
    /// Promise 13.
    #[error("{0}")]
    Clock(#[from] ClockDoubt),
}

enum Key {
    Ecdsa(EcdsaKeyPair, &'static [u8]),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

/// A private key that has been checked against its certificate.
pub struct Signer {
    key: Key,
    random: SystemRandom,
    guard: Option<Arc<ClockGuard>>,
    slow: bool,
    waiting: Semaphore,
    in_flight: Semaphore,
}

impl Signer {
    /// Loads the private key of `certificate` from a PEM or DER file.
    ///
    /// # Errors
    /// [`KeyError`] says what is wrong with the file and how to mend it.
    pub fn from_file(path: &Path, certificate: &Certificate) -> Result<Self, KeyError> {
        keyfile::load(path, certificate)
    }

    fn new(key: Key) -> Self {
        // Ed25519 (23 µs) and P-256 (17 µs) may be signed where the request is answered; P-384 (0.4 ms)
        // and RSA (0.6 ms and up) may not.
        let slow = match &key {
            Key::Ed25519(_) => false,
            Key::Ecdsa(_, algorithm) => *algorithm != algorithm::ECDSA_SHA256,
            Key::Rsa(_) => true,
        };
        let (waiting, in_flight) = (Semaphore::new(IN_FLIGHT + WAITING), Semaphore::new(IN_FLIGHT));
        Self { key, random: SystemRandom::new(), guard: None, slow, waiting, in_flight }
    }

    /// Signs only as long as `guard` believes the clock: what a signature covers is dated (promise 13).
    #[must_use]
    pub fn guarded(mut self, guard: Arc<ClockGuard>) -> Self {
        self.guard = Some(guard);
        self
    }

    /// DER of the AlgorithmIdentifier of the signatures.
    #[must_use]
    pub const fn algorithm(&self) -> &'static [u8] {
        match &self.key {
            Key::Ecdsa(_, algorithm) => algorithm,
            Key::Ed25519(_) => algorithm::ED25519,
            Key::Rsa(_) => algorithm::RSA_SHA256,
        }
    }

    /// Whether a signature takes so long that it must not be made on an HTTP thread.
    #[must_use]
    pub const fn is_slow(&self) -> bool {
        self.slow
    }

    /// Signs on this thread.
    ///
    /// # Errors
    /// [`SignError::Failed`]; [`SignError::Clock`] if the clock cannot be believed.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.guard.as_ref().map_or(Ok(()), |guard| guard.check())?;
        match &self.key {
            Key::Ecdsa(key, _) => {
                key.sign(&self.random, message).map(|made| made.as_ref().to_vec()).map_err(|_| SignError::Failed)
            }
            Key::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
            Key::Rsa(key) => {
                let mut made = vec![0; key.public().modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &self.random, message, &mut made)
                    .map_err(|_| SignError::Failed)?;
                Ok(made)
            }
        }
    }

    /// Signs here if the key is quick, else on a thread for blocking work, when its turn comes.
    ///
    /// # Errors
    /// [`SignError::Overloaded`] at once if too many wait already; [`SignError::Failed`].
    pub async fn sign_in_turn(self: &Arc<Self>, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if !self.slow {
            return self.sign(message);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| SignError::Overloaded)?;
        let _in_flight = self.in_flight.acquire().await.map_err(|_| SignError::Failed)?;
        let (signer, message) = (Arc::clone(self), message.to_vec());
        tokio::task::spawn_blocking(move || signer.sign(&message)).await.map_err(|_| SignError::Failed)?
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("algorithm", &self.algorithm()).finish_non_exhaustive()
    }
}
