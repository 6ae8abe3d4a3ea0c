//! Moments in whole seconds, their spellings in DER, HTTP and text, and the clock that reads them.
//!
//! Goes in: Unix seconds, or the content octets of UTCTime and GeneralizedTime. Comes out: fixed arrays,
//! so that nothing is allocated per answer. Invariant: 64-bit seconds throughout (SEC-26); what is
//! written lies between the years 0 and 9999, the nearest of the two standing in for anything beyond.

use crate::der::{self, tag};
use std::fmt;
use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment, in seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Time(i64);

const DAY: i64 = 86_400;
/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const YEARS_0_TO_9999: (i64, i64) = (-62_167_219_200, 253_402_300_799);
/// 2050-01-01T00:00:00Z, from which GeneralizedTime takes over (RFC 5280 4.1.2.5).
const YEAR_2050: i64 = 2_524_608_000;
/// 1950-01-01T00:00:00Z, before which UTCTime cannot reach.
const YEAR_1950: i64 = -631_152_000;

struct Civil {
    /// The year's first two digits, and its last two.
    century: u8,
    of_century: u8,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    /// 0 is Thursday, the weekday of the epoch.
    weekday: u8,
}

impl Time {
    /// 99991231235959Z, "no well-defined end" (RFC 5280 4.1.2.5).
    pub const MAX: Self = Self(YEARS_0_TO_9999.1);

    /// From seconds since the epoch.
    #[must_use]
    pub const fn from_unix(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since the epoch.
    #[must_use]
    pub const fn unix(self) -> i64 {
        self.0
    }

    /// Time from `earlier` to this one; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Days since the epoch to year, month, day, after the shifted-year method: a year that begins in
    /// March has its leap day last, so that month lengths follow one linear formula.
    ///
    /// Counted without signs from the March before the year 0, in the cycle of 400 years that ends with it:
    /// every cached answer spells five times, and this was a seventh of its instructions.
    fn civil(self) -> Civil {
        let (first, last) = YEARS_0_TO_9999;
        let seconds = self.0.clamp(first, last).abs_diff(first);
        let (days, of_day) = (seconds / DAY.unsigned_abs(), seconds % DAY.unsigned_abs());
        let shifted = days + 146_097 - 60;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let small = |n: u64| u8::try_from(n).unwrap_or(0);
        let year = year_of_era + era * 400 + u64::from(month <= 2) - 400;
        Civil {
            century: small(year / 100),
            of_century: small(year % 100),
            month: small(month),
            day: small(of_year - (153 * from_march + 2) / 5 + 1),
            hour: small(of_day / 3_600),
            minute: small(of_day / 60 % 60),
            second: small(of_day % 60),
            weekday: small((days + 2) % 7),
        }
    }

    /// `YYYYMMDDHHMMSSZ`: the content of a GeneralizedTime (OCSP-42, CRL-06).
    #[must_use]
    pub fn generalized(self) -> [u8; 15] {
        let Civil { century, of_century, month, day, hour, minute, second, .. } = self.civil();
        let mut out = [b'Z'; 15];
        let digits = [century, of_century, month, day, hour, minute, second].map(digits);
        out[..14].copy_from_slice(digits.as_flattened());
        out
    }

    /// Octets that [`Time::put`] writes.
    #[must_use]
    pub const fn put_len(self) -> usize {
        if self.is_utc() { 15 } else { 17 }
    }

    const fn is_utc(self) -> bool {
        YEAR_1950 <= self.0 && self.0 < YEAR_2050
    }

    /// Appends the `Time` of RFC 5280: UTCTime through 2049, GeneralizedTime from then on (CRL-05).
    pub fn put(self, out: &mut Vec<u8>) {
        let text = self.generalized();
        if self.is_utc() {
            der::put(out, tag::UTC_TIME, &text[2..]);
        } else {
            der::put(out, tag::GENERALIZED_TIME, &text);
        }
    }

    /// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 5.6.7).
    #[must_use]
    pub fn http_date(self) -> [u8; 29] {
        const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
        const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
        let civil = self.civil();
        let mut out = *b"Thu, 00 Jan 0000 00:00:00 GMT";
        out[0..3].copy_from_slice(DAYS[usize::from(civil.weekday) % 7]);
        let month = usize::from(civil.month.clamp(1, 12) - 1) * 3;
        out[8..11].copy_from_slice(&MONTHS[month..month + 3]);
        out[5..7].copy_from_slice(&digits(civil.day));
        out[12..14].copy_from_slice(&digits(civil.century));
        out[14..16].copy_from_slice(&digits(civil.of_century));
        out[17..19].copy_from_slice(&digits(civil.hour));
        out[20..22].copy_from_slice(&digits(civil.minute));
        out[23..25].copy_from_slice(&digits(civil.second));
        out
    }

    /// Reads the one form of an HTTP date that senders may make (RFC 9110 5.6.7).
    #[must_use]
    pub fn from_http_date(text: &[u8]) -> Option<Self> {
        let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
            .iter()
            .position(|name| text.get(8..11) == Some(name.as_bytes()))?;
        let time = Self::from_civil(
            number(text.get(12..16)?)?,
            i64::try_from(month).ok()? + 1,
            number(text.get(5..7)?)?,
            [number(text.get(17..19)?)?, number(text.get(20..22)?)?, number(text.get(23..25)?)?],
        )?;
        // Whatever is not what we would have written is not of that form.
        (time.http_date() == text).then_some(time)
    }

    /// Reads what [`Time`] shows: RFC 3339 in UTC, whole seconds.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text.bytes().filter(|octet| !matches!(octet, b'-' | b':' | b'T')).collect();
        // Whatever is not what we would have written is not of that form.
        Self::from_generalized(&digits).filter(|time| time.to_string() == text)
    }

    /// Reads the content of a GeneralizedTime in the only form that RFC 5280 4.1.2.5.2 allows.
    #[must_use]
    pub fn from_generalized(content: &[u8]) -> Option<Self> {
        if content.len() != 15 || content.last() != Some(&b'Z') {
            return None;
        }
        let two = |at: usize| number(content.get(at..at + 2)?);
        Self::from_civil(number(content.get(..4)?)?, two(4)?, two(6)?, [two(8)?, two(10)?, two(12)?])
    }

    /// Reads the content of a UTCTime; 50 and above are 19xx (RFC 5280 4.1.2.5.1).
    #[must_use]
    pub fn from_utc_time(content: &[u8]) -> Option<Self> {
        let [digits @ .., b'Z'] = <&[u8; 13]>::try_from(content).ok()? else { return None };
        let (mut pairs, mut strange) = ([0; 6], 0);
        for (pair, [tens, ones]) in pairs.iter_mut().zip(digits.as_chunks().0) {
            let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
            strange |= u8::from(tens > 9) | u8::from(ones > 9);
            *pair = i64::from(tens) * 10 + i64::from(ones);
        }
        let [year, month, day, rest @ ..] = pairs;
        let year = if year < 50 { 2_000 + year } else { 1_900 + year };
        Self::from_civil(year, month, day, rest).filter(|_| strange == 0)
    }

    /// Reads the next element as the `Time` of RFC 5280.
    ///
    /// # Errors
    /// [`der::Error::Value`] if it is neither of the two types or not a time.
    pub fn read(reader: &mut der::Reader<'_>) -> Result<Self, der::Error> {
        let element = reader.any()?;
        match element.tag {
            tag::UTC_TIME => Self::from_utc_time(element.value),
            tag::GENERALIZED_TIME => Self::from_generalized(element.value),
            _ => None,
        }
        .ok_or(der::Error::Value)
    }

    fn from_civil(year: i64, month: i64, day: i64, [hour, minute, second]: [i64; 3]) -> Option<Self> {
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let shifted_year = year - i64::from(month <= 2);
        let (era, year_of_era) = (shifted_year.div_euclid(400), shifted_year.rem_euclid(400));
        let from_march = if month > 2 { month - 3 } else { month + 9 };
        let of_year = (153 * from_march + 2) / 5 + day - 1;
        let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
        let days = era * 146_097 + of_era - 719_468;
        // 31 April would become 1 May above.
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let longest = match month {
            2 => 28 + i64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        (day <= longest).then(|| Self(days * DAY + hour * 3_600 + minute * 60 + second))
    }
}

const fn digits(value: u8) -> [u8; 2] {
    [b'0' + value / 10 % 10, b'0' + value % 10]
}

fn number(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |n, digit| digit.is_ascii_digit().then(|| n * 10 + i64::from(digit - b'0')))
}

/// RFC 3339, in UTC: `2026-11-22T06:17:54Z`.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let civil = self.civil();
        write!(
            f,
            "{:02}{:02}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            civil.century, civil.of_century, civil.month, civil.day, civil.hour, civil.minute, civil.second
        )
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)))
    }
}

/// Where the present moment comes from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The present second.
    fn now(&self) -> Time;

    /// Time since some moment of the past that stays the same; it goes on whatever is done to the wall clock.
    fn monotonic(&self) -> Duration;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time::default() + since_epoch
    }

    fn monotonic(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}

/// A clock that stands still until it is set: for tests of what time does.
#[derive(Debug)]
pub struct ManualClock {
    wall: AtomicI64,
    /// Wall clock less monotonic clock.
    offset: AtomicI64,
}

impl ManualClock {
    /// Starts at `now`.
    #[must_use]
    pub const fn new(now: Time) -> Self {
        Self { wall: AtomicI64::new(now.0), offset: AtomicI64::new(now.0) }
    }

    /// Time goes on to `now`, for both clocks.
    pub fn set(&self, now: Time) {
        self.wall.store(now.0, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock to `now`; the monotonic clock stays where it is.
    pub fn step(&self, now: Time) {
        let before = self.wall.swap(now.0, Ordering::SeqCst);
        self.offset.fetch_add(now.0.saturating_sub(before), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time(self.wall.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        // Far from zero, so that it can go back too, where a test sets both clocks back.
        let elapsed = self.wall.load(Ordering::SeqCst) - self.offset.load(Ordering::SeqCst) + (1 << 40);
        Duration::from_secs(u64::try_from(elapsed).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SAMPLES: [(i64, &str); 9] = [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_000_000_000, "2001-09-09T01:46:40Z"),
        (2_147_483_648, "2038-01-19T03:14:08Z"),
        (2_524_607_999, "2049-12-31T23:59:59Z"),
        (2_524_608_000, "2050-01-01T00:00:00Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
        (-631_152_000, "1950-01-01T00:00:00Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
    ];

    #[test]
    fn sec_26_every_spelling_comes_back() {
        for (seconds, text) in SAMPLES {
            let time = Time::from_unix(seconds);
            assert_eq!(time.to_string(), text);
            assert_eq!(Time::from_rfc3339(text), Some(time));
            assert_eq!(Time::from_generalized(&time.generalized()), Some(time));
            assert_eq!(Time::from_http_date(&time.http_date()), Some(time));
            let mut out = Vec::new();
            time.put(&mut out);
            assert_eq!(out.len(), time.put_len());
            assert_eq!(Time::read(&mut der::Reader::new(&out)), Ok(time));
        }
    }

    #[test]
    fn crl_05_utc_time_ends_with_2049() {
        let mut out = Vec::new();
        Time::from_unix(YEAR_2050 - 1).put(&mut out);
        assert_eq!(out, b"\x17\x0d491231235959Z");
        out.clear();
        Time::from_unix(YEAR_2050).put(&mut out);
        assert_eq!(out, b"\x18\x0f20500101000000Z");
    }

    #[test]
    fn crl_05_a_utc_time_is_what_the_generalized_time_of_its_year_is() {
        let whole = |short: &[u8]| [if short[0] < b'5' { &b"20"[..] } else { b"19" }, short].concat();
        for text in [*b"500101000000Z", *b"491231235959Z", *b"000229120000Z", *b"700101000000Z", *b"260430000000Z"] {
            assert!(Time::from_utc_time(&text).is_some());
            for (at, octet) in (0..text.len()).flat_map(|at| (0..=u8::MAX).map(move |octet| (at, octet))) {
                let mut other = text;
                other[at] = octet;
                assert_eq!(Time::from_utc_time(&other), Time::from_generalized(&whole(&other)), "{other:x?}");
            }
        }
        assert_eq!((Time::from_utc_time(b"2604300000Z"), Time::from_utc_time(b"")), (None, None));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "20260230000000Z",
            "20261301000000Z",
            "20260101240000Z",
            "2026010100000Z",
            "20260101000000+",
            "2026010100000aZ",
        ] {
            assert_eq!(Time::from_generalized(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Time::from_http_date(b"Sun, 06 Nov 1994 08:49:37 UTC"), None);
        assert_eq!(Time::from_http_date(b"Mon, 06 Nov 1994 08:49:37 GMT"), None);
    }

    #[test]
    fn every_day_comes_back() {
        let (first, last) = YEARS_0_TO_9999;
        for (day, begin) in (first..=last).step_by(86_400).enumerate() {
            let time = Time::from_unix(begin + i64::try_from(day).unwrap() % DAY);
            assert_eq!(Time::from_generalized(&time.generalized()), Some(time));
            if day % 50 == 0 {
                assert_eq!(Time::from_http_date(&time.http_date()), Some(time));
            }
        }
    }

    #[test]
    fn what_no_year_can_name_becomes_the_nearest_end() {
        assert_eq!(&Time::from_unix(i64::MAX).generalized(), b"99991231235959Z");
        assert_eq!(&Time::from_unix(i64::MIN).generalized(), b"00000101000000Z");
    }
}
