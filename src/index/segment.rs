//! A segment: records whose hashes share their first bits, packed into one ordered table.
//!
//! The hash says at which slot a record is at home; it stands there or in one of the next slots, in the order
//! of hashes, and notes how many slots it was pushed on. So a lookup reads a few neighbouring slots, one or
//! two cache lines for the fetching of one, without a table of offsets before it; and the records of a segment
//! come out in the order in which the next one is built of them.
//!
//! A slot holds the serial, sign-extended to the longest of the segment, and the dates: 25 octets where that
//! is 16. What few records have (a revocation, the moment it was learned, dates beyond the ordinary) and what
//! few deployments want (hashes, shards) stands in columns of their own, found by counting bits.
//!
//! Invariant: nothing changes after it was built. Every access is bounds-checked, so that a damaged file can
//! give wrong answers at most, never a fault; its checksums see to those.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use super::Record;
use super::memory::Memory;
use crate::pki::serial::MAX_OCTETS;
use crate::pki::{Reason, Revocation, Serial, Status, Time};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// What is kept of a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) record: Record,
    /// The CRL shard that the database names, where it is kept.
    pub(super) shard: Option<u32>,
}

/// What goes into a new segment: a record, or one as an older segment has it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Row<'a> {
    New(u64, &'a Serial, &'a Entry),
    Old(u64, Packed<'a>),
}

impl Row<'_> {
    pub(super) const fn hash(&self) -> u64 {
        match self {
            Self::New(hash, ..) | Self::Old(hash, _) => *hash,
        }
    }
}

/// A record of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed<'a> {
    segment: &'a Segment,
    slot: usize,
    octets: &'a [u8],
}

impl<'a> Packed<'a> {
    /// The serial's content octets.
    pub(super) fn content(&self) -> &'a [u8] {
        narrow(self.octets.get(TAG..TAG + self.segment.shape.width).unwrap_or_default())
    }

    pub(super) fn serial(&self) -> Option<Serial> {
        Serial::from_content(self.content()).ok()
    }

    pub(super) fn entry(&self) -> Option<Entry> {
        self.segment.entry(self.slot, self.octets)
    }
}

/// Slots for eight records where there are seven: a record is pushed on by three slots on average then, and
/// 16-octet serials take 28.6 octets. Fuller tables get much longer runs.
const ROOM: (usize, usize) = (8, 7);
/// The tag's low bits: one more than the number of slots that the record was pushed on; 0 is an empty slot.
const PUSHED: u8 = 0x7f;
/// The tag's high bit: there is something in the columns besides hash and shard.
const NOTED: u8 = 0x80;
/// Slots behind the last home, so that the search ends at an empty one.
const TAIL: usize = 128;
/// Octets of the tag and of the two dates: notBefore in Unix seconds, and the seconds from there to notAfter.
const TAG: usize = 1;
const DATE: usize = 4;
/// Octets of a time in a column: 40 bits of seconds reach from 15000 BC to AD 19000.
pub(super) const TIME: usize = 5;
/// Octets of the three times of a revocation and its reason, of a SHA-256, of a shard's number.
const REVOKED: usize = 3 * TIME + 1;
const HASH: usize = 32;
const SHARD: usize = 4;
/// Stands for "no invalidity date"; no certificate is as old as that.
const NO_TIME: i64 = -(1 << 39);

/// Records packed for good; see the module's text.
#[derive(Debug)]
pub(super) struct Segment {
    /// How many first bits of the hash all records share.
    pub(super) bits: u32,
    shape: Shape,
    slots: Memory,
    /// Whether any record has a hash or a shard.
    extended: bool,
    columns: Box<Columns>,
}

/// What sizes follow from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Shape {
    pub(super) records: usize,
    /// Slots at which a record may be at home.
    homes: usize,
    /// Octets of a serial.
    width: usize,
}

impl Shape {
    fn new(records: usize, width: usize) -> Self {
        Self { records: 0, homes: (records * ROOM.0).div_ceil(ROOM.1).max(1), width }
    }

    const fn stride(self) -> usize {
        TAG + self.width + 2 * DATE
    }

    const fn slots(self) -> usize {
        self.homes + TAIL
    }

    const fn octets(self) -> usize {
        self.slots() * self.stride()
    }
}

/// What a file says of a segment besides its octets.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Sizes {
    pub(super) bits: u32,
    records: usize,
    homes: usize,
    width: usize,
    /// Of each column its bits and what belongs to them.
    columns: [(usize, usize); 5],
}

impl Sizes {
    const fn shape(&self) -> Shape {
        Shape { records: self.records, homes: self.homes, width: self.width }
    }

    /// Octets of all its parts together; `None` where sizes contradict one another.
    pub(super) fn octets(&self) -> Option<u64> {
        let most = usize::try_from(u32::MAX).ok()?;
        let sane = (1..=MAX_OCTETS).contains(&self.width) && (1..most).contains(&self.homes);
        if !sane || self.records >= most {
            return None;
        }
        let words = self.shape().slots().div_ceil(64) * WORD;
        let mut octets = u64::try_from(self.shape().octets()).ok()?;
        for (bitmap, payload) in self.columns {
            if bitmap != 0 && bitmap != words {
                return None;
            }
            octets = octets.checked_add(u64::try_from(bitmap).ok()?)?.checked_add(u64::try_from(payload).ok()?)?;
        }
        Some(octets)
    }
}

#[derive(Debug, Default)]
struct Columns {
    revoked: Column,
    /// [`Record::since`] of good ones, where it is not zero.
    since: Column,
    /// Both dates, where they do not fit into the slot.
    dates: Column,
    hashes: Column,
    shards: Column,
}

impl Default for Segment {
    fn default() -> Self {
        Self::build(0, 0, 1, Time::default(), std::iter::empty)
    }
}

impl Segment {
    fn new(bits: u32, shape: Shape, slots: Memory, columns: Columns) -> Self {
        let extended = !(columns.hashes.bitmap.is_empty() && columns.shards.bitmap.is_empty());
        Self { bits, shape, slots, extended, columns: Box::new(columns) }
    }

    /// Packs at most `count` rows, sorted by hash, whose serials have at most `width` octets. `rows` is called
    /// again should the table need more room. Good records learned before `forget_before` need no longer
    /// remember that.
    pub(super) fn build<'a, I: Iterator<Item = Row<'a>>>(
        bits: u32,
        count: usize,
        width: usize,
        forget_before: Time,
        rows: impl Fn() -> I,
    ) -> Self {
        let mut shape = Shape::new(count, width.clamp(1, MAX_OCTETS));
        loop {
            let mut builder = Builder::new(bits, shape, forget_before);
            if rows().all(|row| builder.push(&row).is_some()) {
                return builder.finish();
            }
            shape.homes += shape.homes / 4 + 1;
        }
    }

    /// Records in it.
    pub(super) const fn len(&self) -> usize {
        self.shape.records
    }

    /// Octets of the longest serial.
    pub(super) const fn width(&self) -> usize {
        self.shape.width
    }

    pub(super) fn get(&self, hash: u64, serial: &Serial) -> Option<Entry> {
        let (slot, packed) = self.find(hash, serial)?;
        self.entry(slot, packed)
    }

    fn find(&self, hash: u64, serial: &Serial) -> Option<(usize, &[u8])> {
        let (width, stride, content) = (self.shape.width, self.shape.stride(), serial.as_bytes());
        let mut wide = [0; MAX_OCTETS];
        let key = if content.len() == width { content } else { widen(content, &mut wide, width)? };
        let home = home(hash, self.bits, self.shape.homes);
        let mut rest = self.slots.get(home * stride..)?;
        for pushed in 1..=PUSHED {
            let (packed, next) = rest.split_at_checked(stride)?;
            let (tag, content) = packed.split_first()?;
            // 0, an empty slot, is less than any of these: all records are at home further on, or none follow.
            match (tag & PUSHED).cmp(&pushed) {
                Ordering::Less => return None,
                Ordering::Equal if same(content, key) => return Some((home + usize::from(pushed) - 1, packed)),
                _ => rest = next,
            }
        }
        None
    }

    fn entry(&self, slot: usize, packed: &[u8]) -> Option<Entry> {
        let (dates, columns) = (packed.last_chunk::<{ 2 * DATE }>()?, &self.columns);
        let (not_before, validity) = dates.split_first_chunk::<DATE>()?;
        let not_before = i64::from(u32::from_le_bytes(*not_before));
        let not_after = not_before + i64::from(u32::from_le_bytes(*validity.first_chunk()?));
        let mut record = Record {
            not_before: Time::from_unix(not_before),
            not_after: Time::from_unix(not_after),
            status: Status::Good,
            since: Time::default(),
            sha256: None,
        };
        let mut shard = None;
        if self.extended {
            record.sha256 = columns.hashes.get(slot).and_then(|hash| hash.try_into().ok());
            shard = columns.shards.get(slot).and_then(|shard| shard.try_into().ok()).map(u32::from_le_bytes);
        }
        if packed.first()? & NOTED != 0 {
            if let Some(noted) = columns.revoked.get(slot) {
                let (revocation, since) = take_revocation(noted)?;
                record.status = Status::Revoked(revocation);
                record.since = since;
            } else if let Some(noted) = columns.since.get(slot) {
                record.since = take_time(noted)?.0;
            }
            if let Some(noted) = columns.dates.get(slot) {
                let (not_before, rest) = take_time(noted)?;
                (record.not_before, record.not_after) = (not_before, take_time(rest)?.0);
            }
        }
        Some(Entry { record, shard })
    }

    /// All records, in the order of their hashes.
    pub(super) fn records(&self) -> impl Iterator<Item = Packed<'_>> {
        let slots = self.slots.chunks_exact(self.shape.stride()).take(self.shape.slots()).enumerate();
        let taken = slots.filter(|(_, octets)| octets.first().is_some_and(|tag| *tag != 0));
        taken.map(|(slot, octets)| Packed { segment: self, slot, octets })
    }

    /// What a file must say of it besides its octets.
    pub(super) fn sizes(&self) -> Sizes {
        let column = |column: &Column| (column.bitmap_len, column.payload_len);
        let Shape { records, homes, width } = self.shape;
        Sizes { bits: self.bits, records, homes, width, columns: self.columns.all().map(column) }
    }

    /// All that it holds, in the order in which [`Segment::filled`] asks for it.
    pub(super) fn octets_of_parts(&self) -> impl Iterator<Item = &[u8]> {
        let columns = self
            .columns
            .all()
            .into_iter()
            .flat_map(|column| [column.bitmap.get(..column.bitmap_len), column.payload.get(..column.payload_len)]);
        std::iter::once(self.slots.get(..self.shape.octets())).chain(columns).flatten()
    }

    /// A segment of these sizes, filled by `fill` part by part; `None` if there can be none.
    pub(super) fn filled<E>(
        sizes: &Sizes,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Option<Result<Self, E>> {
        sizes.octets()?;
        let shape = sizes.shape();
        let mut part = |len: usize| {
            let mut memory = Memory::zeroed(len);
            memory.get_mut(..len).map_or(Ok(()), &mut fill).map(|()| memory)
        };
        let slots = part(shape.octets());
        let columns = sizes.columns.map(|(bitmap_len, payload_len)| {
            let (bitmap, payload) = (part(bitmap_len)?, part(payload_len)?);
            Ok(Column { bitmap, payload, bitmap_len, payload_len, size: 0 })
        });
        let [revoked, since, dates, hashes, shards] = columns;
        let columns = || {
            let sized = |column: Result<Column, E>, size| column.map(|column| Column { size, ..column });
            Ok(Columns {
                revoked: sized(revoked, REVOKED)?,
                since: sized(since, TIME)?,
                dates: sized(dates, 2 * TIME)?,
                hashes: sized(hashes, HASH)?,
                shards: sized(shards, SHARD)?,
            })
        };
        Some(slots.and_then(|slots| Ok(Self::new(sizes.bits, shape, slots, columns()?))))
    }

    /// Octets of memory that it takes.
    pub(super) fn octets(&self) -> usize {
        let columns = self.columns.all();
        self.shape.octets() + columns.iter().map(|column| column.bitmap_len + column.payload_len).sum::<usize>()
    }
}

fn home(hash: u64, bits: u32, homes: usize) -> usize {
    let below_prefix = u128::from(hash.checked_shl(bits).unwrap_or(0));
    let homes = u128::try_from(homes).unwrap_or(0);
    usize::try_from((below_prefix * homes) >> 64).unwrap_or(0)
}

/// A serial's content octets with as many sign octets before them as make it `width` long; `None` if it is
/// longer. Since serials are in their shortest form, two are the same exactly when these are.
fn widen<'a>(content: &[u8], wide: &'a mut [u8; MAX_OCTETS], width: usize) -> Option<&'a [u8]> {
    let wide = wide.get_mut(..width)?;
    let (sign, rest) = wide.split_at_mut_checked(width.checked_sub(content.len())?)?;
    if content.first()? & 0x80 != 0 {
        sign.fill(0xff);
    }
    rest.copy_from_slice(content);
    Some(wide)
}

/// The content octets in what [`widen`] made.
fn narrow(mut wide: &[u8]) -> &[u8] {
    while let [sign @ (0 | 0xff), rest @ ..] = wide
        && rest.first().is_some_and(|next| (sign ^ next) & 0x80 == 0)
    {
        wide = rest;
    }
    wide
}

/// Whether `slot` begins with `key`; the last octets, which differ most, are looked at first.
fn same(slot: &[u8], key: &[u8]) -> bool {
    let Some(slot) = slot.get(..key.len()) else { return false };
    match (slot.last_chunk::<8>(), key.last_chunk::<8>()) {
        (Some(slot_end), Some(key_end)) => slot_end == key_end && slot == key,
        _ => slot == key,
    }
}

/// What some of the records have: a bit for each slot, with a count of the bits before every 64 of them, and
/// the octets of those that have it one after the other.
#[derive(Debug, Default)]
struct Column {
    /// For every 64 slots 8 octets of bits and 4 of the count; none at all for an empty column.
    bitmap: Memory,
    payload: Memory,
    /// Octets of these that matter.
    bitmap_len: usize,
    payload_len: usize,
    /// Octets for each.
    size: usize,
}

const WORD: usize = 12;

impl Column {
    fn get(&self, slot: usize) -> Option<&[u8]> {
        let word = self.bitmap.get(slot / 64 * WORD..)?.first_chunk::<WORD>()?;
        let (bits, rank) = word.split_first_chunk::<8>()?;
        let (bits, rank) = (u64::from_le_bytes(*bits), u32::from_le_bytes(*rank.first_chunk()?));
        let bit = 1_u64 << (slot % 64);
        if bits & bit == 0 {
            return None;
        }
        let before = (bits & (bit - 1)).count_ones();
        let at = usize::try_from(rank + before).ok()? * self.size;
        self.payload.get(at..at + self.size)
    }
}

impl Columns {
    fn all(&self) -> [&Column; 5] {
        [&self.revoked, &self.since, &self.dates, &self.hashes, &self.shards]
    }
}

/// A [`Column`] in the making; slots come in order.
#[derive(Default)]
struct ColumnBuilder {
    bits: Vec<u64>,
    payload: Vec<u8>,
}

impl ColumnBuilder {
    /// The payload to write to, with the bit of `slot` set.
    fn at(&mut self, slot: usize, shape: Shape) -> &mut Vec<u8> {
        if self.bits.is_empty() {
            self.bits.resize(shape.slots().div_ceil(64), 0);
        }
        if let Some(word) = self.bits.get_mut(slot / 64) {
            *word |= 1 << (slot % 64);
        }
        &mut self.payload
    }

    fn finish(self, size: usize) -> Column {
        let mut bitmap = Memory::zeroed(self.bits.len() * WORD);
        let mut rank = 0_u32;
        for (word, bits) in bitmap.chunks_exact_mut(WORD).zip(&self.bits) {
            let (low, high) = word.split_at_mut(8);
            low.copy_from_slice(&bits.to_le_bytes());
            high.copy_from_slice(&rank.to_le_bytes());
            rank += bits.count_ones();
        }
        let mut payload = Memory::zeroed(self.payload.len());
        if let Some(place) = payload.get_mut(..self.payload.len()) {
            place.copy_from_slice(&self.payload);
        }
        Column { bitmap, payload, bitmap_len: self.bits.len() * WORD, payload_len: self.payload.len(), size }
    }
}

struct Builder {
    bits: u32,
    shape: Shape,
    forget_before: Time,
    slots: Memory,
    /// The first slot that is free.
    next: usize,
    revoked: ColumnBuilder,
    since: ColumnBuilder,
    dates: ColumnBuilder,
    hashes: ColumnBuilder,
    shards: ColumnBuilder,
}

impl Builder {
    fn new(bits: u32, shape: Shape, forget_before: Time) -> Self {
        let slots = Memory::zeroed(shape.octets());
        let empty = ColumnBuilder::default;
        let (revoked, since, dates, hashes, shards) = (empty(), empty(), empty(), empty(), empty());
        Self { bits, shape, forget_before, slots, next: 0, revoked, since, dates, hashes, shards }
    }

    /// `None` if it would stand too far from home.
    fn push(&mut self, row: &Row<'_>) -> Option<()> {
        let home = home(row.hash(), self.bits, self.shape.homes);
        let slot = home.max(self.next);
        let pushed = u8::try_from(slot - home + 1).ok().filter(|pushed| *pushed < PUSHED)?;
        match row {
            Row::New(_, serial, entry) => self.pack(slot, pushed, serial, entry)?,
            Row::Old(_, packed) => self.copy(slot, pushed, packed)?,
        }
        self.next = slot + 1;
        self.shape.records += 1;
        Some(())
    }

    fn pack(&mut self, slot: usize, pushed: u8, serial: &Serial, entry: &Entry) -> Option<()> {
        let (shape, record, mut tag) = (self.shape, &entry.record, pushed);
        match record.status {
            Status::Revoked(revocation) => {
                tag |= NOTED;
                put_revocation(self.revoked.at(slot, shape), &revocation, record.since);
            }
            Status::Good if record.since != Time::default() && record.since >= self.forget_before => {
                tag |= NOTED;
                put_time(self.since.at(slot, shape), record.since);
            }
            Status::Good => {}
        }
        let from = record.not_before.unix();
        let validity = record.not_after.unix().checked_sub(from).and_then(|validity| u32::try_from(validity).ok());
        let (from, validity) = u32::try_from(from).ok().zip(validity).unwrap_or_else(|| {
            tag |= NOTED;
            let dates = self.dates.at(slot, shape);
            put_time(dates, record.not_before);
            put_time(dates, record.not_after);
            (0, 0)
        });
        if let Some(hash) = &record.sha256 {
            self.hashes.at(slot, shape).extend_from_slice(hash);
        }
        if let Some(shard) = entry.shard {
            self.shards.at(slot, shape).extend_from_slice(&shard.to_le_bytes());
        }
        let mut wide = [0; MAX_OCTETS];
        let key = widen(serial.as_bytes(), &mut wide, shape.width)?;
        let (place, dates) = self.place(slot, tag)?;
        place.copy_from_slice(key);
        let (low, high) = dates.split_first_chunk_mut::<DATE>()?;
        *low = from.to_le_bytes();
        high.copy_from_slice(&validity.to_le_bytes());
        Some(())
    }

    /// Takes over a record without unpacking it.
    fn copy(&mut self, slot: usize, pushed: u8, packed: &Packed<'_>) -> Option<()> {
        let (shape, columns) = (self.shape, &packed.segment.columns);
        let mut tag = pushed;
        if packed.octets.first()? & NOTED != 0 {
            if let Some(noted) = columns.revoked.get(packed.slot) {
                tag |= NOTED;
                self.revoked.at(slot, shape).extend_from_slice(noted);
            } else if let Some(noted) = columns.since.get(packed.slot)
                && take_time(noted)?.0 >= self.forget_before
            {
                tag |= NOTED;
                self.since.at(slot, shape).extend_from_slice(noted);
            }
            if let Some(noted) = columns.dates.get(packed.slot) {
                tag |= NOTED;
                self.dates.at(slot, shape).extend_from_slice(noted);
            }
        }
        if packed.segment.extended {
            if let Some(hash) = columns.hashes.get(packed.slot) {
                self.hashes.at(slot, shape).extend_from_slice(hash);
            }
            if let Some(shard) = columns.shards.get(packed.slot) {
                self.shards.at(slot, shape).extend_from_slice(shard);
            }
        }
        let mut wide = [0; MAX_OCTETS];
        let (old, old_dates) = packed.octets.get(TAG..)?.split_at_checked(packed.segment.shape.width)?;
        let key = if old.len() == shape.width { old } else { widen(narrow(old), &mut wide, shape.width)? };
        let (place, dates) = self.place(slot, tag)?;
        place.copy_from_slice(key);
        dates.copy_from_slice(old_dates);
        Some(())
    }

    /// Where the serial and the dates of `slot` go.
    fn place(&mut self, slot: usize, tag: u8) -> Option<(&mut [u8], &mut [u8])> {
        let stride = self.shape.stride();
        let (first, rest) = self.slots.get_mut(slot * stride..(slot + 1) * stride)?.split_first_mut()?;
        *first = tag;
        rest.split_at_mut_checked(self.shape.width)
    }

    fn finish(self) -> Segment {
        let columns = Columns {
            revoked: self.revoked.finish(REVOKED),
            since: self.since.finish(TIME),
            dates: self.dates.finish(2 * TIME),
            hashes: self.hashes.finish(HASH),
            shards: self.shards.finish(SHARD),
        };
        Segment::new(self.bits, self.shape, self.slots, columns)
    }
}

fn put_revocation(data: &mut Vec<u8>, revocation: &Revocation, since: Time) {
    put_time(data, revocation.at);
    put_time(data, since);
    put_time(data, revocation.invalidity_date.unwrap_or(Time::from_unix(NO_TIME)));
    data.push(revocation.reason.code());
}

fn take_revocation(data: &[u8]) -> Option<(Revocation, Time)> {
    let (at, rest) = take_time(data)?;
    let (since, rest) = take_time(rest)?;
    let (invalidity, rest) = take_time(rest)?;
    let invalidity_date = (invalidity.unix() != NO_TIME).then_some(invalidity);
    Some((Revocation { at, reason: Reason::from_code(*rest.first()?)?, invalidity_date }, since))
}

pub(super) fn put_time(data: &mut Vec<u8>, time: Time) {
    let [b0, b1, b2, b3, b4, ..] = time.unix().clamp(NO_TIME, -NO_TIME - 1).to_le_bytes();
    data.extend_from_slice(&[b0, b1, b2, b3, b4]);
}

pub(super) fn take_time(data: &[u8]) -> Option<(Time, &[u8])> {
    let ([b0, b1, b2, b3, b4], rest) = data.split_first_chunk::<TIME>()?;
    // Shifting up and down again carries the sign bit of the 40 into the 64.
    let seconds = i64::from_le_bytes([0, 0, 0, *b0, *b1, *b2, *b3, *b4]) >> 24;
    Some((Time::from_unix(seconds), rest))
}
