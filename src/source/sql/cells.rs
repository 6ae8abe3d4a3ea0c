//! What the cells of a foreign table mean, as far as that is said in text.
//!
//! Goes in: text, as the database makes it of a column of any type, and how the column is written. Comes out:
//! serials, times, reasons. Pure. Invariant: a number that is read is exact, however long; what is no such thing is
//! refused by name and never guessed.

use crate::pki::{Reason, Serial, Time};
use serde::Deserialize;
use std::fmt;

/// How serials are written.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum SerialAs {
    /// Hex digits of either case, with or without leading zeros, colons or 0x.
    Hex,
    /// Decimal digits, as text or as a number of any width.
    Decimal,
    /// The octets of a positive number, with or without leading zeros.
    Bytes,
}

/// As it is written in the config.
impl fmt::Display for SerialAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hex => "hex",
            Self::Decimal => "decimal",
            Self::Bytes => "bytes",
        })
    }
}

/// How times are written.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum TimesAs {
    /// A timestamp or date of the database, or its text; UTC where no offset is said.
    Timestamp,
    /// Seconds since 1970.
    Seconds,
    /// Milliseconds since 1970.
    Milliseconds,
}

/// As it is written in the config.
impl fmt::Display for TimesAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timestamp => "timestamp",
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
        })
    }
}

/// The octets in a cell of bytes, which comes as hex; PostgreSQL puts \x before it.
pub(super) fn octets(text: &str) -> Option<Vec<u8>> {
    let hex = text.strip_prefix("\\x").unwrap_or(text);
    let digit = |octet: &u8| char::from(*octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Vec<u8> = hex.as_bytes().iter().map(digit).collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Text that stands in a column of bytes.
pub(super) fn plain(text: &str) -> String {
    let inner = text.strip_prefix("\\x").and_then(|_| octets(text)).and_then(|octets| String::from_utf8(octets).ok());
    inner.unwrap_or_else(|| text.to_owned())
}

pub(super) fn serial(text: &str, written: SerialAs) -> Result<Serial, String> {
    let bad = |why: &dyn fmt::Display| format!("serial {text:?}: {why}");
    match written {
        SerialAs::Bytes => {
            let octets = octets(text).filter(|octets| !octets.is_empty()).ok_or_else(|| bad(&"no octets"))?;
            Serial::from_magnitude(&octets).map_err(|error| bad(&error))
        }
        SerialAs::Decimal => {
            let text = plain(text);
            let (sign, digits) = match text.trim().strip_prefix('-') {
                Some(digits) => ("-", digits),
                None => ("", text.trim()),
            };
            if digits.is_empty() || !digits.bytes().all(|octet| octet.is_ascii_digit()) {
                return Err(bad(&"it is no decimal number"));
            }
            format!("{sign}dec:{digits}").parse().map_err(|error| bad(&error))
        }
        SerialAs::Hex => {
            let text = plain(text);
            let digits = text.trim().strip_prefix('-').unwrap_or_else(|| text.trim());
            if digits.starts_with("dec:") {
                return Err(bad(&"it is no hex number"));
            }
            text.parse().map_err(|error| bad(&error))
        }
    }
}

/// `None` for a time that stands for none: NULL, MariaDB's and Go's zero, a negative number.
pub(super) fn time(text: &str, written: TimesAs) -> Result<Option<Time>, String> {
    let text = plain(text);
    let text = text.trim();
    let number = || {
        let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
        whole.parse::<i64>().map_err(|_| format!("{text:?} is no number"))
    };
    Ok(match written {
        TimesAs::Seconds => Some(number()?).filter(|seconds| *seconds >= 0).map(Time::from_unix),
        TimesAs::Milliseconds => {
            Some(number()?).filter(|number| *number >= 0).map(|number| Time::from_unix(number.div_euclid(1_000)))
        }
        TimesAs::Timestamp => micros(text)?.map(|micros| Time::from_unix(micros.div_euclid(1_000_000))),
    })
}

/// Microseconds since 1970 of a timestamp in text.
pub(super) fn micros(text: &str) -> Result<Option<i64>, String> {
    let bad = || format!("{text:?} is no timestamp");
    if text.is_empty() || text == "-infinity" || text.starts_with("0000-") || text.starts_with("0001-01-01") {
        return Ok(None);
    }
    if text == "infinity" {
        return Ok(Some(Time::MAX.unix() * 1_000_000));
    }
    let (date, rest) = text.split_at_checked(10).ok_or_else(bad)?;
    let rest = rest.strip_prefix(['T', ' ']).unwrap_or(rest);
    let (clock, rest) = if rest.is_empty() { ("00:00:00", "") } else { rest.split_at_checked(8).ok_or_else(bad)? };
    let whole = Time::from_rfc3339(&format!("{date}T{clock}Z")).ok_or_else(bad)?;
    let digits = rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let (fraction, offset) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at_checked(digits).ok_or_else(bad)?,
        None => ("", rest),
    };
    let fraction = format!("{:0<6}", fraction.chars().take(6).collect::<String>());
    let fraction = fraction.parse::<i64>().map_err(|_| bad())?;
    let seconds = whole.unix() - offset_of(offset.trim()).ok_or_else(bad)?;
    Ok(Some(seconds * 1_000_000 + fraction))
}

/// Seconds east of Greenwich: nothing, Z, UTC, ±HH, ±HHMM, ±HH:MM or ±HH:MM:SS.
fn offset_of(text: &str) -> Option<i64> {
    // Go writes the name of the zone behind the offset.
    let text = text.split(' ').next().unwrap_or_default();
    if matches!(text, "" | "Z" | "z" | "UTC") {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: String = text.get(1..)?.chars().filter(|character| *character != ':').collect();
    if !matches!(digits.len(), 2 | 4 | 6) || !digits.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    let part = |at: usize| digits.get(at..at + 2).map_or(Some(0), |part| part.parse::<i64>().ok());
    Some(sign * (part(0)? * 3_600 + part(2)? * 60 + part(4)?))
}

/// A reason by its number or name; the second is what was amended.
pub(super) fn reason(text: &str) -> (Reason, Option<String>) {
    let text = plain(text);
    let text = text.trim();
    // EJBCA says −1 of what is not revoked.
    if text.is_empty() || text == "-1" {
        return (Reason::Unspecified, None);
    }
    let by_number = text.parse::<u8>().ok().and_then(Reason::from_code);
    let known = by_number.or_else(|| text.parse().ok());
    let doubt = || format!("reason {text:?} cannot be published: it is taken for none");
    (known.unwrap_or_default(), known.is_none().then(doubt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_in_every_spelling_that_databases_have() {
        use SerialAs::{Bytes, Decimal, Hex};
        let cases = [
            ("61742", Decimal, "F12E"),
            ("00061742", Decimal, "F12E"),
            (" 61742 ", Decimal, "F12E"),
            ("-5", Decimal, "-05"),
            ("0", Decimal, "00"),
            ("18446744073709551616", Decimal, "010000000000000000"),
            ("730750818665451459101842416358141509827966271487", Decimal, "7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"),
            ("\\x3631373432", Decimal, "F12E"),
            ("f12e", Hex, "F12E"),
            ("F12E", Hex, "F12E"),
            ("0x00f12e", Hex, "F12E"),
            ("f1:2e", Hex, "F12E"),
            ("123", Hex, "0123"),
            ("\\x66313265", Hex, "F12E"),
            ("F12E", Bytes, "F12E"),
            ("\\x00f12e", Bytes, "F12E"),
            ("00", Bytes, "00"),
        ];
        for (text, written, expected) in cases {
            assert_eq!(serial(text, written).map(|serial| serial.to_string()), Ok(expected.to_owned()), "{text:?}");
        }
        for (text, written) in [
            ("", Decimal),
            ("12a", Decimal),
            ("1.5", Decimal),
            ("1e9", Decimal),
            ("730750818665451459101842416358141509827966271488", Decimal),
            ("xyz", Hex),
            ("dec:12", Hex),
            ("", Hex),
            ("", Bytes),
            ("\\x", Bytes),
            ("F1Z", Bytes),
            ("7F000000000000000000000000000000000000000000", Bytes),
        ] {
            assert!(serial(text, written).is_err(), "{text:?} {written:?}");
        }
    }

    #[test]
    fn times_of_every_type_and_zone() {
        use TimesAs::{Milliseconds, Seconds, Timestamp};
        let cases = [
            ("1795330074", Seconds, Some("2026-11-22T06:47:54Z")),
            ("1795330074.0", Seconds, Some("2026-11-22T06:47:54Z")),
            ("0", Seconds, Some("1970-01-01T00:00:00Z")),
            ("-1", Seconds, None),
            ("1795330074999", Milliseconds, Some("2026-11-22T06:47:54Z")),
            ("-1", Milliseconds, None),
            ("2026-11-22 06:47:54", Timestamp, Some("2026-11-22T06:47:54Z")),
            ("2026-11-22T06:47:54Z", Timestamp, Some("2026-11-22T06:47:54Z")),
            ("2026-11-22 06:47:54.999999+00", Timestamp, Some("2026-11-22T06:47:54Z")),
            ("2026-11-22 12:47:54.123456789+06:00", Timestamp, Some("2026-11-22T06:47:54Z")),
            ("2026-11-22 01:17:54-0530", Timestamp, Some("2026-11-22T06:47:54Z")),
            ("2026-11-22 06:47:54.5 +0000 UTC", Timestamp, Some("2026-11-22T06:47:54Z")),
            ("1883-11-18 00:00:00-04:56:02", Timestamp, Some("1883-11-18T04:56:02Z")),
            ("2053-09-27 17:20:30+00", Timestamp, Some("2053-09-27T17:20:30Z")),
            ("2026-11-22", Timestamp, Some("2026-11-22T00:00:00Z")),
            ("0000-00-00 00:00:00", Timestamp, None),
            ("0001-01-01 00:00:00+00:00", Timestamp, None),
            ("infinity", Timestamp, Some("9999-12-31T23:59:59Z")),
            ("\\x323032362d31312d3232", Timestamp, Some("2026-11-22T00:00:00Z")),
        ];
        for (text, written, expected) in cases {
            let read = time(text, written).map(|time| time.map(|time| time.to_string()));
            assert_eq!(read, Ok(expected.map(str::to_owned)), "{text:?} {written:?}");
        }
        for (text, written) in [
            ("yesterday", Timestamp),
            ("1795330074", Timestamp),
            ("2026-02-30 00:00:00", Timestamp),
            ("2026-11-22 25:00:00", Timestamp),
            ("2026-11-22 06:47:54 CET", Timestamp),
            ("2026-11-22 06:47:54+6", Timestamp),
            ("2026-11-22 06:47:54", Seconds),
            ("", Seconds),
            ("1e12", Milliseconds),
        ] {
            assert!(time(text, written).is_err(), "{text:?} {written:?}");
        }
    }

    #[test]
    fn reasons_by_number_and_by_name() {
        for (text, expected) in [
            ("1", Reason::KeyCompromise),
            ("6", Reason::CertificateHold),
            ("10", Reason::AaCompromise),
            ("keyCompromise", Reason::KeyCompromise),
            ("KEYCOMPROMISE", Reason::KeyCompromise),
            ("0", Reason::Unspecified),
            ("-1", Reason::Unspecified),
            ("", Reason::Unspecified),
        ] {
            assert_eq!(reason(text), (expected, None), "{text:?}");
        }
        for text in ["7", "8", "11", "256", "stolen"] {
            let (reason, doubt) = reason(text);
            assert!(reason == Reason::Unspecified && doubt.is_some(), "{text:?}");
        }
    }
}
