//! Parts of a file: what a `Range` header asks for (RFC 9110 14).
//!
//! Goes in: the header and the file's length. Comes out: which octets to send. One range is served; of
//! several, and of what is not understood, the whole file comes, as RFC 9110 14.2 allows: many small
//! ranges of a large list are no client's need and a known attack.

use hyper::header::{self, HeaderMap};
use std::ops::Range;

/// What to send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Asked {
    /// All of it.
    Whole,
    /// These octets; never empty.
    Part(Range<usize>),
    /// Nothing: it all lies behind the end.
    Beyond,
}

/// What `request` asks for of a file of `len` octets.
pub(super) fn asked(request: &HeaderMap, len: usize) -> Asked {
    let mut lines = request.get_all(header::RANGE).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => line.to_str().ok().and_then(|line| one(line, len)).unwrap_or(Asked::Whole),
        _ => Asked::Whole,
    }
}

/// `None` for what is not one range of bytes, or is none at all.
fn one(line: &str, len: usize) -> Option<Asked> {
    let (unit, set) = line.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    if first.is_empty() {
        let octets = number(last)?;
        return Some(if octets == 0 { Asked::Beyond } else { part(len.saturating_sub(octets), len) });
    }
    let first = number(first)?;
    let end = if last.is_empty() { len } else { number(last)?.saturating_add(1) };
    if end <= first && !last.is_empty() {
        return None;
    }
    Some(part(first, end.min(len)))
}

const fn part(first: usize, end: usize) -> Asked {
    if first < end { Asked::Part(first..end) } else { Asked::Beyond }
}

/// Digits only; a number that is too large is larger than any file.
fn number(digits: &str) -> Option<usize> {
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    plain.then(|| digits.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked_for(lines: &[&str]) -> Asked {
        let mut request = HeaderMap::new();
        for line in lines {
            request.append(header::RANGE, line.parse().unwrap());
        }
        asked(&request, 1000)
    }

    #[test]
    fn one_range_is_understood_as_rfc_9110_has_it() {
        for (line, range) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-499", 0..500),
            ("Bytes= 500-999", 500..1000),
            ("bytes=500-", 500..1000),
            ("bytes=999-99999", 999..1000),
            ("bytes=-1", 999..1000),
            ("bytes=-5000", 0..1000),
            ("bytes=1-18446744073709551616", 1..1000),
        ] {
            assert_eq!(asked_for(&[line]), Asked::Part(range), "{line}");
        }
        for line in ["bytes=1000-", "bytes=1000-1000", "bytes=-0", "bytes=18446744073709551616-"] {
            assert_eq!(asked_for(&[line]), Asked::Beyond, "{line}");
        }
    }

    #[test]
    fn several_ranges_and_what_is_none_get_the_whole() {
        for line in [
            "bytes=0-1,3-4",
            "bytes=5-4",
            "bytes=-",
            "bytes=",
            "bytes",
            "lines=0-1",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=0x1-2",
            "",
        ] {
            assert_eq!(asked_for(&[line]), Asked::Whole, "{line}");
        }
        assert_eq!(asked_for(&["bytes=0-1", "bytes=0-1"]), Asked::Whole);
        assert_eq!(asked_for(&[]), Asked::Whole);
    }
}
