//! The entries of a list, which stay encoded: what they say as bytes, and chunks that lists share.
//!
//! Goes in: revocations. Comes out: DER (RFC 5280 5.1, revokedCertificates). Entries are kept in serial order in
//! chunks behind [`Arc`]: a change rewrites one chunk, and a copy of the whole is a copy of pointers.
//!
//! Invariant: each serial stands once (CRL-08), with an entry of at most 81 bytes (CRL-09), so that
//! every length inside an entry is one octet.

use crate::der::{self, tag};
use crate::pki::list::{REMOVE_FROM_CRL, oid};
use crate::pki::{Reason, Revocation, Serial, Time};
use bytes::Bytes;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

/// Octets of an entry's reasonCode extension and of its invalidityDate extension (CRL-40, CRL-43).
const REASON_LEN: usize = 12;
const INVALIDITY_LEN: usize = 26;

/// Entries that a new chunk gets, and the bounds at which chunks are split and joined. At 49 bytes an
/// entry, one change copies, and the history keeps, at most 25 kB; a million entries take 4,000 pointers.
const CHUNK: usize = 256;
const CHUNK_MAX: usize = 2 * CHUNK;
const CHUNK_MIN: usize = CHUNK / 4;

/// Appends the entry that lists a revocation.
pub fn put_revoked(out: &mut Vec<u8>, serial: &Serial, revocation: &Revocation) {
    // CRL-41: unspecified is expressed by leaving the reason out.
    let code = (revocation.reason != Reason::Unspecified).then(|| revocation.reason.code());
    put_entry(out, serial, revocation.at, code, revocation.invalidity_date);
}

/// Appends the entry by which a delta takes a serial off the list (CRL-66); `at` is when it was released.
pub fn put_removed(out: &mut Vec<u8>, serial: &Serial, at: Time) {
    put_entry(out, serial, at, Some(REMOVE_FROM_CRL), None);
}

fn put_entry(out: &mut Vec<u8>, serial: &Serial, at: Time, reason: Option<u8>, invalidity_date: Option<Time>) {
    let extensions = reason.map_or(0, |_| REASON_LEN) + invalidity_date.map_or(0, |_| INVALIDITY_LEN);
    // CRL-48: no extensions at all rather than an empty sequence of them.
    let wrapped = if extensions == 0 { 0 } else { der::element_len(extensions) };
    der::put_header(out, tag::SEQUENCE, der::element_len(serial.as_bytes().len()) + at.put_len() + wrapped);
    der::put(out, tag::INTEGER, serial.as_bytes());
    at.put(out);
    if extensions > 0 {
        der::put_header(out, tag::SEQUENCE, extensions);
    }
    if let Some(code) = reason {
        out.extend_from_slice(&[tag::SEQUENCE, 10]);
        out.extend_from_slice(oid::REASON);
        out.extend_from_slice(&[tag::OCTET_STRING, 3, tag::ENUMERATED, 1, code]);
    }
    if let Some(since) = invalidity_date {
        out.extend_from_slice(&[tag::SEQUENCE, 24]);
        out.extend_from_slice(oid::INVALIDITY_DATE);
        out.extend_from_slice(&[tag::OCTET_STRING, 17]);
        // CRL-06: GeneralizedTime, whatever the year.
        der::put(out, tag::GENERALIZED_TIME, &since.generalized());
    }
}

/// The serial of an entry that [`put_entry`] made.
fn serial_of(entry: &[u8]) -> Option<Serial> {
    let [_, _, _, len, rest @ ..] = entry else { return None };
    Serial::from_content(rest.get(..usize::from(*len))?).ok()
}

/// What is to become of one serial's entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Edit {
    /// List it like this, whether or not it is listed.
    List {
        /// What the entry says.
        revocation: Revocation,
        /// The second after which a regular list need no longer carry it: see [`Entries::prune`].
        prune_key: Time,
    },
    /// Do not list it.
    Drop,
}

/// One listed serial.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listed<'a> {
    /// The entry in DER.
    pub entry: &'a [u8],
    /// See [`Entries::prune`].
    pub prune_key: Time,
}

#[derive(Debug)]
struct Chunk {
    /// The first entry's serial; chunks are never empty.
    first: Serial,
    /// The entries, one after another.
    der: Bytes,
    /// Where each ends, and when it may go: 6 bytes of overhead for each entry. 512 entries of 81 bytes are
    /// fewer than 64 Ki.
    ends: Box<[u16]>,
    prune_keys: Box<[PruneKey]>,
    earliest_prune: PruneKey,
}

/// [`Listed::prune_key`] in Unix seconds. What does not fit, after 2106, is never pruned.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct PruneKey(u32);

impl PruneKey {
    const NEVER: Self = Self(u32::MAX);

    fn new(time: Time) -> Self {
        u32::try_from(time.unix().max(0)).map_or(Self::NEVER, Self)
    }

    fn time(self) -> Time {
        if self == Self::NEVER { Time::MAX } else { Time::from_unix(self.0.into()) }
    }
}

impl Chunk {
    fn from_stored(der: Bytes) -> Option<Arc<Self>> {
        let first = serial_of(&der)?;
        let (mut ends, mut at) = (Vec::new(), 0_usize);
        while at < der.len() {
            // Entries are short: see the invariant of this file.
            at += 2 + usize::from(*der.get(at + 1)?);
            ends.push(u16::try_from(at).ok()?);
        }
        let (prune_keys, earliest_prune) = (vec![PruneKey::NEVER; ends.len()].into(), PruneKey::NEVER);
        (at == der.len()).then(|| Arc::new(Self { first, der, ends: ends.into(), prune_keys, earliest_prune }))
    }

    const fn len(&self) -> usize {
        self.ends.len()
    }

    fn range(&self, at: usize) -> Option<Range<usize>> {
        let end = usize::from(*self.ends.get(at)?);
        let before = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        Some(usize::from(before)..end)
    }

    fn get(&self, at: usize) -> Option<Listed<'_>> {
        Some(Listed { entry: self.der.get(self.range(at)?)?, prune_key: self.prune_keys.get(at)?.time() })
    }

    fn iter(&self) -> impl Iterator<Item = Listed<'_>> {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    /// Where `serial` stands, or else would have to stand.
    fn find(&self, serial: &Serial) -> Result<usize, usize> {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = usize::midpoint(from, to);
            match self.get(middle).and_then(|listed| serial_of(listed.entry)) {
                Some(found) if found == *serial => return Ok(middle),
                Some(found) if found < *serial => from = middle + 1,
                _ => to = middle,
            }
        }
        Err(from)
    }
}

/// A chunk as it is stored.
#[derive(Clone, Debug)]
pub struct Run {
    /// Sorts as the entries do.
    pub place: Vec<u8>,
    /// The entries in DER, one after another.
    pub der: Bytes,
}

/// Octets that sort as serials do: by sign, then by length, then by content.
fn place_of(serial: &Serial) -> Vec<u8> {
    let octets = serial.as_bytes();
    let len = u8::try_from(octets.len()).unwrap_or(u8::MAX);
    let negative = octets.first().is_some_and(|first| *first >= 0x80);
    let mut place = if negative { vec![0, u8::MAX - len] } else { vec![1, len] };
    place.extend_from_slice(octets);
    place
}

/// Entries on their way into chunks.
#[derive(Default)]
struct Writer {
    der: Vec<u8>,
    ends: Vec<u16>,
    prune_keys: Vec<PruneKey>,
}

impl Writer {
    fn end(&mut self, prune_key: Time) {
        self.ends.push(u16::try_from(self.der.len()).unwrap_or(u16::MAX));
        self.prune_keys.push(PruneKey::new(prune_key));
    }

    fn copy(&mut self, listed: Listed<'_>) {
        self.der.extend_from_slice(listed.entry);
        self.end(listed.prune_key);
    }

    fn list(&mut self, serial: &Serial, revocation: &Revocation, prune_key: Time) {
        put_revoked(&mut self.der, serial, revocation);
        self.end(prune_key);
    }

    fn chunk(&mut self) -> Option<Arc<Chunk>> {
        let first = serial_of(&self.der)?;
        let earliest_prune = self.prune_keys.iter().copied().min()?;
        // Copied, so that what is kept for long is as large as it must be: a vector that grew to it and was
        // then cut leaves a hole of a fifth behind it.
        let chunk = Chunk {
            first,
            der: Bytes::copy_from_slice(&self.der),
            ends: self.ends.as_slice().into(),
            prune_keys: self.prune_keys.as_slice().into(),
            earliest_prune,
        };
        self.der.clear();
        self.ends.clear();
        self.prune_keys.clear();
        Some(Arc::new(chunk))
    }
}

/// The entries of a list, encoded and in serial order; clones share their chunks.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    chunks: Vec<Arc<Chunk>>,
}

impl Entries {
    /// Takes entries in ascending order of their serials; of several with the same serial the first counts.
    #[must_use]
    pub fn from_sorted<'a>(sorted: impl IntoIterator<Item = (&'a Serial, &'a Revocation, Time)>) -> Self {
        let mut filling = Filling::default();
        let mut last = None;
        for (serial, revocation, prune_key) in sorted {
            if last.is_none_or(|last| last < *serial) {
                filling.writer.list(serial, revocation, prune_key);
                filling.split_at(CHUNK);
                last = Some(*serial);
            }
        }
        filling.finish()
    }

    /// How many serials are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    /// Whether none is listed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The entries as runs of bytes, in the order in which they stand in a list.
    pub fn runs(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.chunks.iter().map(|chunk| &*chunk.der)
    }

    /// The chunks that `other` does not share, as the state store keeps them.
    pub fn beyond<'a>(&'a self, other: &Self) -> impl Iterator<Item = Run> + 'a {
        let shared: HashSet<*const Chunk> = other.chunks.iter().map(Arc::as_ptr).collect();
        let own = self.chunks.iter().filter(move |chunk| !shared.contains(&Arc::as_ptr(chunk)));
        own.map(|chunk| Run { place: place_of(&chunk.first), der: chunk.der.clone() })
    }

    /// Takes chunks as [`Entries::beyond`] gave them, in order; none of the entries may be pruned yet.
    /// `None` if they are not what was given.
    #[must_use]
    pub fn from_stored(runs: impl IntoIterator<Item = Bytes>) -> Option<Self> {
        let chunks = runs.into_iter().map(Chunk::from_stored).collect::<Option<_>>()?;
        Some(Self { chunks })
    }

    /// The same entries with these prune keys, one for each in order: see [`Entries::prune`].
    #[must_use]
    pub fn keyed(&self, keys: &[Time]) -> Self {
        let mut keys = keys.iter().copied().map(PruneKey::new);
        let keyed = |chunk: &Arc<Chunk>| {
            let prune_keys: Box<[PruneKey]> =
                chunk.prune_keys.iter().map(|known| keys.next().unwrap_or(*known)).collect();
            Arc::new(Chunk {
                first: chunk.first,
                der: chunk.der.clone(),
                ends: chunk.ends.clone(),
                earliest_prune: prune_keys.iter().copied().min().unwrap_or(PruneKey::NEVER),
                prune_keys,
            })
        };
        Self { chunks: self.chunks.iter().map(keyed).collect() }
    }

    /// The entry of `serial`.
    #[must_use]
    pub fn get(&self, serial: &Serial) -> Option<Listed<'_>> {
        let after = self.chunks.partition_point(|chunk| chunk.first <= *serial);
        let chunk = self.chunks.get(after.checked_sub(1)?)?;
        chunk.get(chunk.find(serial).ok()?)
    }

    /// Makes `edits`, which stand in ascending order of their serials. Chunks that none of them touches stay shared.
    pub fn apply(&mut self, edits: &[(Serial, Edit)]) {
        if edits.is_empty() {
            return;
        }
        let old = std::mem::take(&mut self.chunks);
        let mut filling = Filling { chunks: Vec::with_capacity(old.len() + 1), writer: Writer::default() };
        let mut rest = edits;
        if old.is_empty() {
            filling.merge(None, rest);
        }
        let mut next_firsts = old.iter().skip(1).map(|chunk| Some(chunk.first)).chain([None]);
        for chunk in &old {
            let next = next_firsts.next().flatten();
            let (here, later) = rest.split_at(next.map_or(rest.len(), |n| rest.partition_point(|(s, _)| *s < n)));
            rest = later;
            if here.is_empty() {
                filling.share(chunk);
            } else {
                filling.merge(Some(chunk), here);
            }
        }
        *self = filling.finish();
    }

    /// Drops the entries whose prune key lies before `regular` (promise 7) and returns their serials and keys.
    ///
    /// The key is the later of the certificate's notAfter and the second at which its present status was
    /// learned; `regular` is the thisUpdate of the last regular list that was committed, or earlier where
    /// entries are kept for longer. So that list was dated after the certificate's end, and carried the
    /// entry (CRL-50, CRL-51).
    pub fn prune(&mut self, regular: Time) -> Vec<(Serial, Time)> {
        let over: Vec<(Serial, Time)> = self
            .chunks
            .iter()
            .filter(|chunk| chunk.earliest_prune.time() < regular)
            .flat_map(|chunk| chunk.iter().filter(|listed| listed.prune_key < regular))
            .filter_map(|listed| Some((serial_of(listed.entry)?, listed.prune_key)))
            .collect();
        self.apply(&over.iter().map(|(serial, _)| (*serial, Edit::Drop)).collect::<Vec<_>>());
        over
    }
}

/// Chunks in the making: what stands in the writer comes after all of them.
#[derive(Default)]
struct Filling {
    chunks: Vec<Arc<Chunk>>,
    writer: Writer,
}

impl Filling {
    fn split_at(&mut self, len: usize) {
        if self.writer.ends.len() >= len {
            self.chunks.extend(self.writer.chunk());
        }
    }

    /// Takes a chunk as it is, unless it or the one before it is so small that the two belong together.
    fn share(&mut self, chunk: &Arc<Chunk>) {
        let small = |before: &mut Arc<Chunk>| {
            before.len().min(chunk.len()) < CHUNK_MIN && before.len() + chunk.len() <= CHUNK_MAX
        };
        match self.chunks.pop_if(small) {
            Some(before) => {
                before.iter().chain(chunk.iter()).for_each(|listed| self.writer.copy(listed));
                self.chunks.extend(self.writer.chunk());
            }
            None => self.chunks.push(Arc::clone(chunk)),
        }
    }

    /// Writes the entries of `chunk` with `edits` made to them, as one chunk or several of even size.
    fn merge(&mut self, chunk: Option<&Arc<Chunk>>, edits: &[(Serial, Edit)]) {
        let total = chunk.map_or(0, |chunk| chunk.len()) + edits.len();
        let parts = if total > CHUNK_MAX { total.div_ceil(CHUNK) } else { 1 };
        let size = total.div_ceil(parts);
        let old = chunk.map(|chunk| &**chunk);
        let mut at = 0;
        let mut made = Self::default();
        for (serial, edit) in edits {
            let place = old.map_or(Err(0), |chunk| chunk.find(serial));
            let (Ok(until) | Err(until)) = place;
            made.copy(old, at..until, size);
            at = until + usize::from(place.is_ok());
            if let Edit::List { revocation, prune_key } = edit {
                made.writer.list(serial, revocation, *prune_key);
                made.split_at(size);
            }
        }
        made.copy(old, at..old.map_or(0, Chunk::len), size);
        made.chunks.extend(made.writer.chunk());
        made.chunks.iter().for_each(|chunk| self.share(chunk));
    }

    fn copy(&mut self, chunk: Option<&Chunk>, range: Range<usize>, size: usize) {
        for listed in range.filter_map(|at| chunk?.get(at)) {
            self.writer.copy(listed);
            self.split_at(size);
        }
    }

    fn finish(mut self) -> Entries {
        self.chunks.extend(self.writer.chunk());
        Entries { chunks: self.chunks }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stdout)]
    use super::*;
    use std::collections::BTreeMap;

    /// 2026-11-22T06:00:00Z.
    const MORNING: Time = Time::from_unix(1_795_327_200);

    fn serial(n: u64) -> Serial {
        Serial::from_magnitude(&n.to_be_bytes()).unwrap()
    }

    fn because(reason: Reason) -> Revocation {
        Revocation { at: MORNING, reason, invalidity_date: None }
    }

    fn entry(serial: &Serial, revocation: Revocation) -> Vec<u8> {
        let mut out = Vec::new();
        put_revoked(&mut out, serial, &revocation);
        out
    }

    #[test]
    fn crl_40_41_43_48_entries_are_these_bytes() {
        let one = serial(0x0102);
        assert_eq!(entry(&one, because(Reason::Unspecified)), b"\x30\x13\x02\x02\x01\x02\x17\x0d261122060000Z");
        assert_eq!(
            entry(&one, because(Reason::KeyCompromise)),
            b"\x30\x21\x02\x02\x01\x02\x17\x0d261122060000Z\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01\x01"
        );
        let since = Revocation { invalidity_date: Some(MORNING), ..because(Reason::Unspecified) };
        assert_eq!(
            entry(&one, since),
            b"\x30\x2f\x02\x02\x01\x02\x17\x0d261122060000Z\x30\x1a\x30\x18\x06\x03\x55\x1d\x18\x04\x11\x18\x0f20261122060000Z"
        );
        let mut removed = Vec::new();
        put_removed(&mut removed, &one, MORNING);
        assert!(removed.ends_with(b"\x0a\x01\x08"));
    }

    #[test]
    fn crl_09_sizes_are_those_that_were_computed() {
        let sixteen = Serial::from_content(&[0x4a; 16]).unwrap();
        let twenty = Serial::from_content(&[0x4a; 20]).unwrap();
        let dated = Revocation { invalidity_date: Some(MORNING), ..because(Reason::Superseded) };
        let sizes = |serial| {
            [because(Reason::Unspecified), because(Reason::Superseded), dated].map(|said| entry(serial, said).len())
        };
        assert_eq!(sizes(&sixteen), [35, 49, 75]);
        assert_eq!(sizes(&twenty), [39, 53, 79]);
        let late = Revocation { at: Time::from_unix(2_524_608_000), ..dated };
        assert_eq!(entry(&twenty, late).len(), 81, "GeneralizedTime from 2050 on (CRL-05)");
    }

    #[test]
    fn entries_say_what_a_map_says_through_any_edits() {
        let seed = 20_261_122_u64;
        println!("seed {seed}");
        let mut state = seed;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut entries = Entries::default();
        let mut model: BTreeMap<Serial, (Revocation, Time)> = BTreeMap::new();
        for round in 0..120_u64 {
            // Phases of growing and of shrinking, single edits and floods.
            let (count, drops) = ([1, 7, 900, 3_000][random(4) as usize], if round % 40 < 20 { 5 } else { 2 });
            let mut edits = BTreeMap::new();
            for _ in 0..count {
                let reason = Reason::ALL[random(9) as usize];
                let edit = if random(drops) == 0 || round % 40 > 35 {
                    Edit::Drop
                } else {
                    Edit::List { revocation: because(reason), prune_key: Time::from_unix(random(1_000) as i64) }
                };
                edits.insert(serial(random(20_000)), edit);
            }
            for (serial, edit) in &edits {
                match edit {
                    Edit::List { revocation, prune_key } => drop(model.insert(*serial, (*revocation, *prune_key))),
                    Edit::Drop => drop(model.remove(serial)),
                }
            }
            let before = entries.clone();
            let mut stored = before.beyond(&Entries::default()).collect::<Vec<_>>();
            let (len, first) = (before.len(), before.runs().next().map(<[u8]>::to_vec));
            entries.apply(&edits.into_iter().collect::<Vec<_>>());
            assert_eq!(
                (before.len(), before.runs().next().map(<[u8]>::to_vec)),
                (len, first),
                "a clone stays as it is"
            );
            // What the store would hold after taking away what is gone and adding what is new.
            let gone: Vec<Vec<u8>> = before.beyond(&entries).map(|run| run.place).collect();
            stored.retain(|run| !gone.contains(&run.place));
            stored.extend(entries.beyond(&before));
            stored.sort_by(|a, b| a.place.cmp(&b.place));
            let again = Entries::from_stored(stored.into_iter().map(|run| run.der)).unwrap();
            assert!(again.runs().eq(entries.runs()) && again.len() == entries.len());
            if round % 17 == 16 {
                let regular = Time::from_unix(random(400) as i64);
                let pruned = entries.prune(regular);
                let over = model.iter().filter(|(_, (_, key))| *key < regular);
                let gone: Vec<(Serial, Time)> = over.map(|(serial, (_, key))| (*serial, *key)).collect();
                assert_eq!(pruned, gone);
                model.retain(|_, (_, key)| *key >= regular);
            }
            let bytes: Vec<u8> = entries.runs().flatten().copied().collect();
            let expected: Vec<u8> = model.iter().flat_map(|(serial, (said, _))| entry(serial, *said)).collect();
            assert_eq!(bytes, expected, "round {round}");
            assert_eq!((entries.len(), entries.is_empty()), (model.len(), model.is_empty()));
            assert!(entries.chunks.iter().all(|chunk| chunk.len() <= CHUNK_MAX));
            let small = entries.chunks.windows(2).filter(|pair| pair[0].len() + pair[1].len() < CHUNK_MIN);
            assert_eq!(small.count(), 0, "neighbours that are small are joined");
        }
        for n in 0..20_000 {
            let found = entries.get(&serial(n)).map(|listed| (listed.entry.to_vec(), listed.prune_key));
            assert_eq!(found, model.get(&serial(n)).map(|(said, key)| (entry(&serial(n), *said), *key)));
        }
    }

    #[test]
    fn one_change_rewrites_one_chunk() {
        let said = because(Reason::Superseded);
        let serials: Vec<Serial> = (0..50_000).map(serial).collect();
        let mut entries = Entries::from_sorted(serials.iter().map(|serial| (serial, &said, Time::MAX)));
        let before = entries.clone();
        entries.apply(&[(
            serial(25_000),
            Edit::List { revocation: because(Reason::KeyCompromise), prune_key: Time::MAX },
        )]);
        let pairs = before.chunks.iter().zip(&entries.chunks);
        assert_eq!(pairs.filter(|(old, new)| !Arc::ptr_eq(old, new)).count(), 1);
        assert_eq!(entries.len(), 50_000);
    }

    #[test]
    fn what_expires_beyond_2106_stays_listed() {
        let (said, soon) = (because(Reason::Superseded), Time::from_unix(1_800_000_000));
        let keys = [soon, Time::from_unix(i64::from(u32::MAX) + 1), Time::from_unix(9_000_000_000), Time::MAX];
        let serials: Vec<Serial> = (0..4).map(serial).collect();
        let mut entries = Entries::from_sorted(serials.iter().zip(keys).map(|(serial, key)| (serial, &said, key)));
        assert_eq!(entries.prune(Time::from_unix(253_000_000_000)), [(serial(0), soon)]);
        assert_eq!(entries.len(), 3);
    }
}
