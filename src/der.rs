//! DER, both ways: a borrowed cursor for reading and a length-first writer.
//!
//! Goes in: bytes from the network, from files and from databases. Comes out: slices of those same
//! bytes ([`Reader`]), or bytes appended to a buffer ([`put`] and its kin). Nothing is copied or
//! allocated while reading.
//!
//! Invariant: only what X.690 chapters 8 and 10 allow in DER is read: definite lengths in their
//! shortest form, tags below 31, minimal INTEGERs (SEC-02, SEC-18). Deeper meaning is left to the caller.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use thiserror::Error;

/// Why bytes are not the DER that was expected.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A length is indefinite, not in its shortest form, or larger than any input could be.
    #[error("length is indefinite, oversized or not in its shortest form")]
    Length,
    /// The element holds a value that its type does not allow.
    #[error("value is not allowed for its type")]
    Value,
    /// Another element stands where this one was expected; `found` is `None` at the end of the input.
    #[error("expected tag {expected:#04x}, found {found:02x?}")]
    Tag {
        /// The identifier octet that belongs here.
        expected: u8,
        /// The identifier octet that is there.
        found: Option<u8>,
    },
    /// Bytes are left over after the last element.
    #[error("trailing bytes after the last element")]
    Trailing,
    /// The input ends inside an element.
    #[error("input ends inside an element")]
    Truncated,
}

/// Identifier octets of the types that OCSP and CRLs are made of.
pub mod tag {
    #![allow(missing_docs)]
    pub const BOOLEAN: u8 = 0x01;
    pub const INTEGER: u8 = 0x02;
    pub const BIT_STRING: u8 = 0x03;
    pub const OCTET_STRING: u8 = 0x04;
    pub const NULL: u8 = 0x05;
    pub const OID: u8 = 0x06;
    pub const ENUMERATED: u8 = 0x0a;
    pub const UTC_TIME: u8 = 0x17;
    pub const GENERALIZED_TIME: u8 = 0x18;
    pub const SEQUENCE: u8 = 0x30;

    /// `[n]` around a whole element (EXPLICIT), or constructed IMPLICIT; `n` is below 31.
    #[must_use]
    pub const fn explicit(n: u8) -> u8 {
        0xa0 | n
    }

    /// `[n]` in place of a primitive type's own tag; `n` is below 31.
    #[must_use]
    pub const fn implicit(n: u8) -> u8 {
        0x80 | n
    }
}

/// One element: its identifier octet, its content, and the whole of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Element<'a> {
    /// Identifier octet.
    pub tag: u8,
    /// Content octets.
    pub value: &'a [u8],
    /// Identifier, length and content octets as they came.
    pub raw: &'a [u8],
}

/// A cursor over DER; each call takes the next element off the front.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether everything has been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What has not been read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The identifier octet of the next element.
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next element, whatever it is.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Length`], or [`Error::Value`] for a tag above 30.
    pub fn any(&mut self) -> Result<Element<'a>, Error> {
        let [tag, first, after @ ..] = self.rest else {
            return Err(Error::Truncated);
        };
        if tag & 0x1f == 0x1f {
            return Err(Error::Value);
        }
        let (len, body) = match *first {
            short @ 0..=0x7f => (usize::from(short), after),
            // Four length octets reach 4 GiB: more than any list that is worth publishing.
            long @ 0x81..=0x84 => {
                let (octets, body) = after.split_at_checked(usize::from(long & 0x7f)).ok_or(Error::Truncated)?;
                let len = octets.iter().fold(0_usize, |n, octet| (n << 8) | usize::from(*octet));
                let shortest = len > 0x7f && octets.first() != Some(&0);
                if !shortest {
                    return Err(Error::Length);
                }
                (len, body)
            }
            _ => return Err(Error::Length),
        };
        let (value, rest) = body.split_at_checked(len).ok_or(Error::Truncated)?;
        let whole = self.rest.len().saturating_sub(rest.len());
        let raw = self.rest.get(..whole).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(Element { tag: *tag, value, raw })
    }

    /// The next element, which must carry `tag`.
    ///
    /// # Errors
    /// [`Error::Tag`] if another stands here, and all that [`Reader::any`] reports.
    pub fn element(&mut self, tag: u8) -> Result<Element<'a>, Error> {
        match self.peek() {
            Some(found) if found == tag => self.any(),
            found => Err(Error::Tag { expected: tag, found }),
        }
    }

    /// The content of the next element, which must carry `tag`.
    ///
    /// # Errors
    /// As [`Reader::element`].
    pub fn value(&mut self, tag: u8) -> Result<&'a [u8], Error> {
        self.element(tag).map(|element| element.value)
    }

    /// A cursor over the content of the next element, which must carry `tag`.
    ///
    /// # Errors
    /// As [`Reader::element`].
    pub fn nested(&mut self, tag: u8) -> Result<Self, Error> {
        self.value(tag).map(Self::new)
    }

    /// The content of the next element if it carries `tag`, else nothing is taken.
    ///
    /// # Errors
    /// As [`Reader::any`].
    pub fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, Error> {
        if self.peek() == Some(tag) { self.value(tag).map(Some) } else { Ok(None) }
    }

    /// The content octets of an INTEGER: at least one, in their shortest form (X.690 8.3.2), sign included.
    ///
    /// # Errors
    /// [`Error::Value`] if it is empty or padded.
    pub fn integer(&mut self) -> Result<&'a [u8], Error> {
        let value = self.value(tag::INTEGER)?;
        if is_minimal_integer(value) { Ok(value) } else { Err(Error::Value) }
    }

    /// A BOOLEAN that DER's DEFAULT FALSE may have left out.
    ///
    /// # Errors
    /// [`Error::Value`] for an encoded FALSE, or a TRUE other than `FF`.
    pub fn default_false(&mut self) -> Result<bool, Error> {
        match self.optional(tag::BOOLEAN)? {
            None => Ok(false),
            Some([0xff]) => Ok(true),
            Some(_) => Err(Error::Value),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`Error::Trailing`] if something is left.
    pub const fn finish(self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::Trailing) }
    }
}

/// Reads `bytes` as exactly one element with `tag` and returns a cursor over its content.
///
/// # Errors
/// All that [`Reader::element`] reports, and [`Error::Trailing`].
pub fn outer(bytes: &[u8], tag: u8) -> Result<Reader<'_>, Error> {
    let mut reader = Reader::new(bytes);
    let inner = reader.nested(tag)?;
    reader.finish()?;
    Ok(inner)
}

/// Whether these are the content octets of a DER INTEGER: not empty and without needless leading octets.
#[must_use]
pub const fn is_minimal_integer(content: &[u8]) -> bool {
    match content {
        [] => false,
        [0x00, next, ..] => *next >= 0x80,
        [0xff, next, ..] => *next < 0x80,
        _ => true,
    }
}

/// Octets that the length field takes for a content of `len` octets.
#[must_use]
pub const fn length_octets(len: usize) -> usize {
    match len {
        0..=0x7f => 1,
        0x80..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xff_ffff => 4,
        _ => 5,
    }
}

/// Octets that an element with a content of `len` octets takes, tag and length included.
#[must_use]
pub const fn element_len(len: usize) -> usize {
    1 + length_octets(len) + len
}

/// Appends the identifier and length octets of an element whose content of `len` octets will follow.
///
/// `len` is below 4 GiB; a longer one cannot be held in one DER list that any client would read.
pub fn put_header(out: &mut Vec<u8>, tag: u8, len: usize) {
    out.push(tag);
    let [.., b3, b2, b1, b0] = len.to_be_bytes();
    match length_octets(len) {
        1 => out.push(b0),
        2 => out.extend_from_slice(&[0x81, b0]),
        3 => out.extend_from_slice(&[0x82, b1, b0]),
        4 => out.extend_from_slice(&[0x83, b2, b1, b0]),
        _ => out.extend_from_slice(&[0x84, b3, b2, b1, b0]),
    }
}

/// Appends an element.
pub fn put(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    put_header(out, tag, value.len());
    out.extend_from_slice(value);
}

/// An element whose content is `parts` one after another; for what is built once, not per request.
#[must_use]
pub fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(element_len(len));
    put_header(&mut out, tag, len);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// The INTEGER of a number that is not negative.
#[must_use]
pub fn unsigned_integer(number: u64) -> Vec<u8> {
    let octets = number.to_be_bytes();
    let mut content: &[u8] = &octets;
    while let [0x00, rest @ ..] = content
        && !rest.is_empty()
    {
        content = rest;
    }
    let pad: &[u8] = if content.first().is_some_and(|octet| *octet >= 0x80) { &[0] } else { &[] };
    element(tag::INTEGER, &[pad, content])
}

/// An `Extension` (RFC 5280 4.1) around the DER of its value; `critical` is left out when false (OCSP-01).
#[must_use]
pub fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[tag::BOOLEAN, 1, 0xff] } else { &[] };
    element(tag::SEQUENCE, &[oid, critical, &element(tag::OCTET_STRING, &[value])])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lengths_at_every_size_class_come_back() {
        for len in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000, 0xff_ffff, 0x100_0000] {
            let value = vec![7; len];
            let mut out = Vec::new();
            put(&mut out, tag::OCTET_STRING, &value);
            assert_eq!(out.len(), element_len(len));
            let mut reader = Reader::new(&out);
            assert_eq!(reader.element(tag::OCTET_STRING).unwrap().raw, out);
            reader.finish().unwrap();
        }
    }

    #[test]
    fn sec_02_lengths_that_der_forbids_are_refused() {
        for bad in [
            &[0x30, 0x80, 0x00, 0x00][..],
            &[0x04, 0x81, 0x01, 0x00],
            &[0x04, 0x82, 0x00, 0x80],
            &[0x04, 0x85, 1, 0, 0, 0, 0],
            &[0x04, 0xff],
        ] {
            assert_eq!(Reader::new(bad).any(), Err(Error::Length), "{bad:02x?}");
        }
        assert_eq!(Reader::new(&[0x04, 0x02, 0x00]).any(), Err(Error::Truncated));
        assert_eq!(Reader::new(&[0x1f, 0x01, 0x00]).any(), Err(Error::Value));
    }

    #[test]
    fn sec_18_padded_integers_are_refused_and_zero_and_negative_ones_are_not() {
        for bad in [&[][..], &[0x00, 0x7f], &[0xff, 0x80], &[0x00, 0x00]] {
            assert!(!is_minimal_integer(bad), "{bad:02x?}");
        }
        for good in [&[0x00][..], &[0x00, 0x80], &[0xff], &[0xff, 0x7f], &[0x80]] {
            assert!(is_minimal_integer(good), "{good:02x?}");
        }
    }

    #[test]
    fn numbers_get_a_sign_octet_where_they_need_one() {
        assert_eq!(unsigned_integer(0), [2, 1, 0]);
        assert_eq!(unsigned_integer(0x7f), [2, 1, 0x7f]);
        assert_eq!(unsigned_integer(0x80), [2, 2, 0, 0x80]);
        assert_eq!(unsigned_integer(u64::MAX), [2, 9, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    }

    #[test]
    fn booleans_follow_der() {
        assert_eq!(Reader::new(&[1, 1, 0xff]).default_false(), Ok(true));
        assert_eq!(Reader::new(&[4, 0]).default_false(), Ok(false));
        assert_eq!(Reader::new(&[1, 1, 0]).default_false(), Err(Error::Value));
        assert_eq!(Reader::new(&[1, 1, 1]).default_false(), Err(Error::Value));
    }
}
