//! A list as bytes: its head, its entries and its signature in one buffer.
//!
//! Goes in: what the head of a list says, and runs of entries that are encoded already ([`super::entries`]). Comes
//! out: DER (RFC 5280 5.1), so that a build is a copy of bytes. When and what to build is decided elsewhere.

use super::Kind;
use crate::der::{self, tag};
use crate::pki::Time;
use crate::pki::list::oid;
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What a list says besides its entries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    /// DER of the signature's AlgorithmIdentifier.
    pub algorithm: &'a [u8],
    /// DER of the CA's Name as its certificate spells it (CRL-03).
    pub issuer: &'a [u8],
    /// Key identifier of the CA's certificate (CRL-20).
    pub authority_key: &'a [u8],
    /// thisUpdate.
    pub this_update: Time,
    /// nextUpdate.
    pub next_update: Time,
    /// CRLNumber (CRL-21).
    pub number: u64,
    /// BaseCRLNumber; a list that has one is a delta (CRL-24).
    pub base: Option<u64>,
    /// Where the delta to this complete list is found (CRL-28); a delta does not say.
    pub freshest: Option<&'a str>,
    /// Of a part of the certificates: the URL that these carry (CRL-71); critical.
    pub distribution: Option<&'a str>,
    /// Of which kind of certificates alone it speaks (CRL-76); critical.
    pub only: Option<Kind>,
    /// From when on expired certificates are still listed (expiredCertsOnCRL, CRL-30).
    pub expired_since: Option<Time>,
    /// When the next regular list is due (Microsoft's Next CRL Publish, CRL-31).
    pub next_publish: Option<Time>,
    /// Where the CA's certificate is found (CRL-29).
    pub ca_issuers: Option<&'a str>,
}

impl Head<'_> {
    fn extensions(&self) -> Vec<u8> {
        let authority_key = der::element(tag::SEQUENCE, &[&der::element(tag::implicit(0), &[self.authority_key])]);
        let mut all = vec![
            der::extension(oid::AUTHORITY_KEY, false, &authority_key),
            der::extension(oid::CRL_NUMBER, false, &der::unsigned_integer(self.number)),
        ];
        match (self.base, self.freshest) {
            (Some(base), _) => all.push(der::extension(oid::DELTA_INDICATOR, true, &der::unsigned_integer(base))),
            (None, Some(url)) => all.push(der::extension(oid::FRESHEST, false, &distribution_point(url))),
            (None, None) => {}
        }
        if self.distribution.is_some() || self.only.is_some() {
            let name = self.distribution.map(full_name).unwrap_or_default();
            let only = self.only.map(|kind| der::element(tag::implicit(kind.flag()), &[&[0xff]])).unwrap_or_default();
            all.push(der::extension(oid::DISTRIBUTION, true, &der::element(tag::SEQUENCE, &[&name, &only])));
        }
        if let Some(since) = self.expired_since {
            // CRL-06: GeneralizedTime, whatever the year.
            let value = der::element(tag::GENERALIZED_TIME, &[&since.generalized()]);
            all.push(der::extension(oid::EXPIRED, false, &value));
        }
        if let Some(next) = self.next_publish {
            let mut value = Vec::new();
            next.put(&mut value);
            all.push(der::extension(oid::NEXT_PUBLISH, false, &value));
        }
        if let Some(url) = self.ca_issuers {
            let uri = der::element(tag::implicit(6), &[url.as_bytes()]);
            let description = der::element(tag::SEQUENCE, &[oid::CA_ISSUERS, &uri]);
            all.push(der::extension(oid::ACCESS, false, &der::element(tag::SEQUENCE, &[&description])));
        }
        let parts: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        der::element(tag::explicit(0), &[&der::element(tag::SEQUENCE, &parts)])
    }
}

/// CRLDistributionPoints with one URI, without reasons and cRLIssuer.
fn distribution_point(url: &str) -> Vec<u8> {
    der::element(tag::SEQUENCE, &[&der::element(tag::SEQUENCE, &[&full_name(url)])])
}

/// The field distributionPoint: \[0\] around the CHOICE fullName, one URI.
fn full_name(url: &str) -> Vec<u8> {
    let uri = der::element(tag::implicit(6), &[url.as_bytes()]);
    der::element(tag::explicit(0), &[&der::element(tag::explicit(0), &[&uri])])
}

/// Octets kept free at the front of a buffer for the outermost header, whose length only the signature decides.
const ROOM: usize = 6;

/// From how many octets of entries on two threads copy them.
const LONG: usize = 4 << 20;

/// Where in a buffer the parts of a list stand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Laid {
    /// What is to be signed.
    pub tbs: Range<usize>,
    /// The entries in it.
    pub entries: Range<usize>,
}

/// Lays all of a list that is to be signed into `buffer` and returns where in it that stands.
///
/// `runs` are the entries. The buffer's old content is lost, its memory is used again.
pub fn lay<'a>(buffer: &mut Vec<u8>, head: &Head<'_>, runs: impl Iterator<Item = &'a [u8]> + Clone + Send) -> Laid {
    const VERSION_2: &[u8] = &[tag::INTEGER, 1, 1];
    let extensions = head.extensions();
    let entries: usize = runs.clone().map(<[u8]>::len).sum();
    // CRL-04: without an entry there is no revokedCertificates.
    let revoked = if entries == 0 { 0 } else { der::element_len(entries) };
    let times = head.this_update.put_len() + head.next_update.put_len();
    let content = VERSION_2.len() + head.algorithm.len() + head.issuer.len() + times + revoked + extensions.len();

    let mut front = vec![0; ROOM];
    der::put_header(&mut front, tag::SEQUENCE, content);
    front.extend_from_slice(VERSION_2);
    front.extend_from_slice(head.algorithm);
    front.extend_from_slice(head.issuer);
    head.this_update.put(&mut front);
    head.next_update.put(&mut front);
    if entries > 0 {
        der::put_header(&mut front, tag::SEQUENCE, entries);
    }

    let (start, end) = (front.len(), front.len() + entries);
    let whole = end + extensions.len();
    let signature = 2 * head.algorithm.len() + 1_024;
    if buffer.capacity() < whole + signature {
        *buffer = Vec::new();
        // Room for the list to grow a little until the buffer's next turn.
        *buffer = vec![0; whole + whole / 64 + signature];
    }
    buffer.resize(whole, 0);
    let (before, rest) = buffer.split_at_mut(start);
    let (middle, after) = rest.split_at_mut(entries);
    before.copy_from_slice(&front);
    copy(middle, runs);
    after.copy_from_slice(&extensions);
    Laid { tbs: ROOM..whole, entries: start..end }
}

/// Copies `runs` to `place`, which is as long as all of them: a long list by two threads, as memory that is
/// scattered keeps one of them waiting.
fn copy<'a>(place: &mut [u8], runs: impl Iterator<Item = &'a [u8]> + Clone + Send) {
    if place.len() < LONG {
        return copy_in_order(place, runs);
    }
    let (mut half, mut count) = (0, 0);
    for run in runs.clone() {
        if half + run.len() > place.len() / 2 {
            break;
        }
        half += run.len();
        count += 1;
    }
    let (first, second) = place.split_at_mut(half);
    let later = runs.clone().skip(count);
    thread::scope(|scope| {
        scope.spawn(|| copy_in_order(second, later));
        copy_in_order(first, runs.take(count));
    });
}

fn copy_in_order<'a>(mut place: &mut [u8], runs: impl Iterator<Item = &'a [u8]>) {
    for run in runs {
        let (here, rest) = place.split_at_mut(run.len());
        here.copy_from_slice(run);
        place = rest;
    }
}

/// Completes what [`lay`] began with the signature over it and returns where in `buffer` the list stands.
pub fn seal(buffer: &mut Vec<u8>, head: &Head<'_>, signature: &[u8]) -> Range<usize> {
    // CRL-02: the same bytes as inside.
    buffer.extend_from_slice(head.algorithm);
    der::put_header(buffer, tag::BIT_STRING, signature.len() + 1);
    buffer.push(0);
    buffer.extend_from_slice(signature);
    let content = buffer.len() - ROOM;
    let mut outer = Vec::with_capacity(ROOM);
    der::put_header(&mut outer, tag::SEQUENCE, content);
    let start = ROOM.saturating_sub(outer.len());
    if let Some(place) = buffer.get_mut(start..ROOM) {
        place.copy_from_slice(&outer);
    }
    start..buffer.len()
}

/// Keeps one large buffer for the next list, so that its memory need not be faulted in again: half the
/// cost of laying a list of 50 MB (`benches/crl.rs`). It comes back by itself when the last reader of the
/// list in it is done.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    spare: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Pool {
    /// The spare buffer, or a new one.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    /// Makes `buffer[range]` something that can be served; a range that does not fit serves nothing.
    #[must_use]
    pub fn serve(&self, buffer: Vec<u8>, range: Range<usize>) -> Bytes {
        let whole = Bytes::from_owner(Lent { buffer, pool: self.clone() });
        if range.end <= whole.len() && range.start <= range.end { whole.slice(range) } else { Bytes::new() }
    }
}

/// A buffer that is being served.
struct Lent {
    buffer: Vec<u8>,
    pool: Pool,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // The larger of the two stays, so that a short list does not push out the buffer of a long one.
        let mut spare = self.pool.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.as_ref().is_none_or(|kept| kept.capacity() < buffer.capacity()) {
            *spare = Some(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// 2026-11-22T06:00:00Z.
    const MORNING: Time = Time::from_unix(1_795_327_200);

    #[test]
    fn the_head_of_a_list_is_these_bytes() {
        let head = Head {
            algorithm: &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
            issuer: &[0x30, 0x00],
            authority_key: &[0xaa, 0xbb],
            this_update: MORNING,
            next_update: Time::from_unix(2_524_608_000),
            number: 0x80,
            base: None,
            freshest: Some("http://a/d"),
            ..Head::default()
        };
        let mut buffer = b"what was here before".to_vec();
        let tbs = lay(&mut buffer, &head, std::iter::empty()).tbs;
        let algorithm = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
        let mut expected = b"\x30\x6e\x02\x01\x01".to_vec();
        expected.extend_from_slice(algorithm);
        // CRL-04: no revokedCertificates between the times and the extensions.
        expected.extend_from_slice(b"\x30\x00\x17\x0d261122060000Z\x18\x0f20500101000000Z");
        expected.extend_from_slice(b"\xa0\x3b\x30\x39");
        expected.extend_from_slice(b"\x30\x0d\x06\x03\x55\x1d\x23\x04\x06\x30\x04\x80\x02\xaa\xbb");
        expected.extend_from_slice(b"\x30\x0b\x06\x03\x55\x1d\x14\x04\x04\x02\x02\x00\x80");
        expected.extend_from_slice(
            b"\x30\x1b\x06\x03\x55\x1d\x2e\x04\x14\x30\x12\x30\x10\xa0\x0e\xa0\x0c\x86\x0ahttp://a/d",
        );
        assert_eq!(buffer[tbs], expected);

        // CRL-24: critical, and no freshestCRL in a delta (CRL-28).
        let delta = Head { base: Some(0x7f), ..head };
        let tbs = lay(&mut buffer, &delta, std::iter::empty()).tbs;
        assert!(buffer[tbs].ends_with(b"\x30\x0d\x06\x03\x55\x1d\x1b\x01\x01\xff\x04\x03\x02\x01\x7f"));
    }

    #[test]
    fn long_lists_are_laid_as_short_ones_are_whatever_was_in_the_buffer() {
        let many: Vec<Vec<u8>> = (0..=90).map(|n| vec![n; 50_000 + usize::from(n)]).collect();
        for runs in [many, vec![vec![7; LONG + 1]], vec![vec![1; 9], vec![2; LONG]], vec![vec![3; 99]]] {
            let bytes = runs.concat();
            for mut buffer in [Vec::new(), vec![9; 100], vec![9; 2 * LONG]] {
                let laid = lay(&mut buffer, &Head::default(), runs.iter().map(Vec::as_slice));
                let whole = seal(&mut buffer, &Head::default(), &[5; 70]);
                assert!(buffer[laid.entries.clone()] == bytes, "{} octets", bytes.len());
                assert_eq!(laid.tbs.start, ROOM);
                let mut outer = der::outer(&buffer[whole], tag::SEQUENCE).unwrap();
                assert_eq!(outer.element(tag::SEQUENCE).unwrap().raw.len(), laid.tbs.len());
            }
        }
    }

    #[test]
    fn a_buffer_comes_back_when_its_last_reader_is_done() {
        let pool = Pool::default();
        let mut buffer = pool.take();
        buffer.resize(10_000, 7);
        let place = buffer.as_ptr();
        let served = pool.serve(buffer, 5..10_000);
        assert_eq!((served.len(), served[0]), (9_995, 7));
        let slow_reader = served.clone();
        drop(served);
        assert_eq!(pool.take().capacity(), 0, "somebody still reads it");
        drop(slow_reader);
        let again = pool.take();
        assert_eq!(again.as_ptr(), place);
    }
}
