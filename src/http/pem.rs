//! Lists as PEM (RFC 7468), for clients that read nothing else.
//!
//! Goes in: a list in DER. Comes out: the same as text, made away from the threads that answer, because a
//! list of a million entries is 66 MB of it.
//!
//! Invariant: of each version at most one text is in memory, however many ask for it at once or leave
//! while it is made; beyond those being read only the last one that was asked for stays there.

use crate::crl::Published;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use tokio::sync::OwnedMutexGuard;

/// Octets of DER in a line of 64 characters.
const LINE: usize = 48;
/// Lists up to this size are put into text where they are asked for.
const SMALL: usize = 64 * 1024;

/// The texts of a list's versions.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// Every one that somebody still reads, by the version's entity tag.
    all: BTreeMap<String, Weak<String>>,
    /// The last one that was asked for.
    last: Option<Arc<String>>,
}

impl Texts {
    /// `list` as PEM; `None` only while the process ends. Whoever leaves meanwhile lets nobody else begin.
    pub(super) async fn of(mut texts: OwnedMutexGuard<Self>, list: Arc<Published>) -> Option<Bytes> {
        if list.bytes.len() <= SMALL || texts.kept(&list).is_some() {
            return Some(texts.text(&list));
        }
        tokio::task::spawn_blocking(move || texts.text(&list)).await.ok()
    }

    fn kept(&self, list: &Published) -> Option<Arc<String>> {
        self.all.get(&list.etag).and_then(Weak::upgrade)
    }

    fn text(&mut self, list: &Published) -> Bytes {
        let text = self.kept(list).unwrap_or_else(|| Arc::new(encode(&list.bytes)));
        self.all.retain(|_, text| text.strong_count() > 0);
        self.all.insert(list.etag.clone(), Arc::downgrade(&text));
        self.last = Some(Arc::clone(&text));
        Bytes::from_owner(Text(text))
    }
}

struct Text(Arc<String>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn encode(der: &[u8]) -> String {
    let mut text = String::with_capacity(der.len() / 3 * 4 + der.len() / LINE + 64);
    text.push_str("-----BEGIN X509 CRL-----\n");
    for line in der.chunks(LINE) {
        BASE64_STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.push_str("-----END X509 CRL-----\n");
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pki::Time;
    use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject};
    use tokio::sync::Mutex;

    #[tokio::test]
    async fn of_each_list_there_is_one_text_whatever_is_asked_for_in_between() {
        let texts = Arc::new(Mutex::new(Texts::default()));
        for octets in [10, SMALL + 10] {
            let list = |etag: &str| {
                let (this_update, next_update) = (Time::default(), Time::default());
                let bytes = vec![0; octets].into();
                Arc::new(Published { number: 1, this_update, next_update, bytes, etag: format!("{etag}{octets}") })
            };
            let of = async |list: &Arc<Published>| {
                Texts::of(Arc::clone(&texts).lock_owned().await, Arc::clone(list)).await.unwrap()
            };
            let (one, other) = (list("one"), list("other"));
            let read = of(&one).await;
            for _ in 0..3 {
                assert_ne!(of(&other).await.as_ptr(), read.as_ptr());
                assert_eq!(of(&one).await.as_ptr(), read.as_ptr());
            }
        }
        assert_eq!(texts.lock().await.all.values().filter(|text| text.strong_count() > 0).count(), 1);
    }

    #[test]
    fn what_becomes_text_is_read_back() {
        for octets in [1, 47, 48, 49, 1000] {
            let der: Vec<u8> = (0..octets).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let text = encode(&der);
            assert!(text.lines().all(|line| line.len() <= 64));
            let read = CertificateRevocationListDer::from_pem_slice(text.as_bytes()).unwrap();
            assert_eq!(&*read, der, "{octets}");
        }
    }
}
