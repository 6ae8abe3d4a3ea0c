//! Lists as PEM (RFC 7468), for clients that read nothing else.
//!
//! Goes in: a list in DER. Comes out: the same as text, made once for each version and away from the
//! threads that answer, because a list of a million entries is 66 MB of it.

use crate::crl::Published;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use tokio::sync::Mutex;

/// Octets of DER in a line of 64 characters.
const LINE: usize = 48;
/// Lists up to this size are put into text where they are asked for.
const SMALL: usize = 64 * 1024;

/// The text of the last version that somebody asked for.
#[derive(Debug, Default)]
pub(super) struct Copy(Mutex<Option<(String, Bytes)>>);

impl Copy {
    /// `list` as PEM; `None` only while the process ends.
    pub(super) async fn of(&self, list: &Published) -> Option<Bytes> {
        // Held while it is made, so that a burst of requests makes it once.
        let mut copy = self.0.lock().await;
        if let Some((_, text)) = copy.as_ref().filter(|(etag, _)| *etag == list.etag) {
            return Some(text.clone());
        }
        let der = list.bytes.clone();
        let text = if der.len() <= SMALL {
            encode(&der)
        } else {
            tokio::task::spawn_blocking(move || encode(&der)).await.ok()?
        };
        *copy = Some((list.etag.clone(), text.clone()));
        Some(text)
    }
}

fn encode(der: &[u8]) -> Bytes {
    let mut text = String::with_capacity(der.len() / 3 * 4 + der.len() / LINE + 64);
    text.push_str("-----BEGIN X509 CRL-----\n");
    for line in der.chunks(LINE) {
        BASE64_STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.push_str("-----END X509 CRL-----\n");
    text.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject};

    #[test]
    fn what_becomes_text_is_read_back() {
        for octets in [1, 47, 48, 49, 1000] {
            let der: Vec<u8> = (0..octets).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let text = encode(&der);
            assert!(text.split(|byte| *byte == b'\n').all(|line| line.len() <= 64));
            assert_eq!(&*CertificateRevocationListDer::from_pem_slice(&text).unwrap(), der, "{octets}");
        }
    }
}
