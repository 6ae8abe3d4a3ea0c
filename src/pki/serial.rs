//! Certificate serial numbers as their INTEGER content octets.
//!
//! Invariant: 1 to 20 octets in their shortest two's-complement form, so that two serials are equal
//! exactly when their octets are (SEC-17, CRL-54). Zero and negative serials are plain keys (SEC-18).

use crate::der::is_minimal_integer;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The most content octets that RFC 5280 4.1.2.2 allows.
pub const MAX_OCTETS: usize = 20;

/// Why something is not a serial number.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum SerialError {
    /// No octets, or no digits.
    #[error("a serial number cannot be empty")]
    Empty,
    /// More than [`MAX_OCTETS`].
    #[error("a serial number has at most 20 octets, sign octet included (RFC 5280 4.1.2.2)")]
    TooLong,
    /// Needless leading octets.
    #[error("the octets are not the shortest form of an INTEGER")]
    NotMinimal,
    /// Text that is neither hex nor `dec:` and decimal.
    #[error("{0:?} is not a serial number: write hex (1F2E, 1f:2e with two digits each, 0x1f2e) or dec:7982")]
    Text(String),
}

/// A serial number; see the module's invariant.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Serial {
    len: u8,
    octets: [u8; MAX_OCTETS],
}

impl Serial {
    /// The number zero.
    pub const ZERO: Self = Self { len: 1, octets: [0; MAX_OCTETS] };

    /// Takes the content octets of an INTEGER, sign octet included.
    ///
    /// # Errors
    /// If they break the module's invariant.
    pub fn from_content(content: &[u8]) -> Result<Self, SerialError> {
        if content.is_empty() {
            return Err(SerialError::Empty);
        }
        let len = u8::try_from(content.len()).map_err(|_| SerialError::TooLong)?;
        let mut octets = [0; MAX_OCTETS];
        octets.get_mut(..content.len()).ok_or(SerialError::TooLong)?.copy_from_slice(content);
        if !is_minimal_integer(content) {
            return Err(SerialError::NotMinimal);
        }
        Ok(Self { len, octets })
    }

    /// Takes the octets of a number that is not negative, with or without leading zeros.
    ///
    /// # Errors
    /// [`SerialError::TooLong`] if it needs more than 20 octets.
    pub fn from_magnitude(magnitude: &[u8]) -> Result<Self, SerialError> {
        let zeros = magnitude.iter().take_while(|octet| **octet == 0).count();
        let digits = magnitude.get(zeros..).unwrap_or_default();
        let mut content = Vec::with_capacity(digits.len() + 1);
        if digits.first().is_none_or(|octet| *octet >= 0x80) {
            content.push(0);
        }
        content.extend_from_slice(digits);
        Self::from_content(&content)
    }

    /// The content octets of the INTEGER.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.octets.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// The number in decimal digits, as databases write it.
    #[must_use]
    pub fn to_decimal(&self) -> String {
        // Digits of the decimal number, the last first; each octet multiplies by 256 and adds itself.
        let mut digits = vec![0_u8];
        for octet in self.magnitude() {
            let mut carry = u32::from(octet);
            for digit in &mut digits {
                let value = u32::from(*digit) * 256 + carry;
                *digit = u8::try_from(value % 10).unwrap_or(0);
                carry = value / 10;
            }
            while carry > 0 {
                digits.push(u8::try_from(carry % 10).unwrap_or(0));
                carry /= 10;
            }
        }
        let sign = if self.is_negative() { "-" } else { "" };
        digits.iter().rev().fold(sign.to_owned(), |text, digit| text + &digit.to_string())
    }

    const fn is_negative(&self) -> bool {
        self.octets[0] >= 0x80
    }

    /// Octets of the absolute value without leading zeros beyond one octet.
    fn magnitude(&self) -> Vec<u8> {
        let mut octets = self.as_bytes().to_vec();
        if self.is_negative() {
            // Two's complement: invert and add one, from the last octet on.
            let mut carry = true;
            for octet in octets.iter_mut().rev() {
                let (value, over) = (!*octet).overflowing_add(u8::from(carry));
                *octet = value;
                carry = over;
            }
        }
        if octets.len() > 1 && octets.first() == Some(&0) {
            octets.remove(0);
        }
        octets
    }

    fn negated(self) -> Result<Self, SerialError> {
        let mut octets: Vec<u8> = std::iter::once(0).chain(self.as_bytes().iter().copied()).collect();
        let mut carry = true;
        for octet in octets.iter_mut().rev() {
            let (value, over) = (!*octet).overflowing_add(u8::from(carry));
            *octet = value;
            carry = over;
        }
        let pads = octets.windows(2).take_while(|pair| pair[0] == 0xff && pair[1] >= 0x80).count();
        let zeros = octets.iter().take_while(|octet| **octet == 0).count().min(octets.len() - 1);
        Self::from_content(&octets[pads.max(zeros)..])
    }
}

/// Numbers in numeric order for what CAs issue: by sign, then length, then octets.
impl Ord for Serial {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.is_negative(), other.is_negative()) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (negative, _) => {
                let by_len = self.len.cmp(&other.len);
                let by_len = if negative { by_len.reverse() } else { by_len };
                by_len.then_with(|| self.as_bytes().cmp(other.as_bytes()))
            }
        }
    }
}

impl PartialOrd for Serial {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Upper-case hex of the number without the sign octet, as OpenSSL prints it.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_negative() {
            f.write_str("-")?;
        }
        self.magnitude().iter().try_for_each(|octet| write!(f, "{octet:02X}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// Reads hex, with or without `0x`, colons or spaces, or decimal behind `dec:`; a minus sign may stand before either.
impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        let bad = || SerialError::Text(text.to_owned());
        let trimmed = text.trim();
        let (negative, digits) = match trimmed.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, trimmed),
        };
        let magnitude = if let Some(decimal) = digits.strip_prefix("dec:") {
            octets_from_decimal(decimal).ok_or_else(bad)?
        } else {
            let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")).unwrap_or(digits);
            octets_from_hex(hex).ok_or_else(bad)?
        };
        let serial = Self::from_magnitude(&magnitude)?;
        if negative && serial.as_bytes() != [0] { serial.negated() } else { Ok(serial) }
    }
}

fn octets_from_hex(text: &str) -> Option<Vec<u8>> {
    // 10:2 may have lost a digit anywhere; a number without separators has lost nothing but zeros in front.
    let groups = || text.trim().split([':', ' ']);
    if groups().nth(1).is_some() && groups().any(|group| group.len() % 2 == 1) {
        return None;
    }
    let mut nibbles = Vec::with_capacity(text.len() + 1);
    for character in text.chars().filter(|c| !matches!(c, ':' | ' ')) {
        nibbles.push(u8::try_from(character.to_digit(16)?).ok()?);
    }
    if nibbles.is_empty() {
        return None;
    }
    if nibbles.len() % 2 == 1 {
        nibbles.insert(0, 0);
    }
    Some(nibbles.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn octets_from_decimal(text: &str) -> Option<Vec<u8>> {
    // 20 octets hold at most 49 decimal digits; a longer text need not be worked through.
    if text.is_empty() || text.trim_start_matches('0').len() > 49 {
        return None;
    }
    let mut octets = vec![0_u8; MAX_OCTETS + 1];
    for character in text.chars() {
        let mut carry = character.to_digit(10)?;
        for octet in octets.iter_mut().rev() {
            let value = u32::from(*octet) * 10 + carry;
            *octet = value.to_le_bytes()[0];
            carry = value >> 8;
        }
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_accepted_spelling_means_the_same_number() {
        let expected = Serial::from_content(&[0x00, 0xf1, 0x2e]).unwrap();
        for text in ["F12E", "f12e", "0xF12E", "f1:2e", "00F12E", "dec:61742", " F1 2E ", "00:f1:2e"] {
            assert_eq!(text.parse::<Serial>().unwrap(), expected, "{text}");
        }
        assert_eq!(expected.to_string(), "F12E");
        assert_eq!("123".parse::<Serial>().unwrap().as_bytes(), [0x01, 0x23]);
    }

    #[test]
    fn decimals_beyond_64_bits_are_exact() {
        let serial: Serial = "dec:730750818665451459101842416358141509827966271487".parse().unwrap();
        assert_eq!(serial.to_string(), "7F".to_owned() + &"FF".repeat(19));
        assert_eq!("dec:0".parse::<Serial>().unwrap().as_bytes(), [0]);
    }

    #[test]
    fn decimals_are_written_as_they_are_read() {
        for text in
            ["0", "9", "255", "256", "18446744073709551616", "-128", "730750818665451459101842416358141509827966271487"]
        {
            let serial: Serial = match text.strip_prefix('-') {
                Some(digits) => format!("-dec:{digits}"),
                None => format!("dec:{text}"),
            }
            .parse()
            .unwrap();
            assert_eq!(serial.to_decimal(), text);
        }
    }

    #[test]
    fn sec_17_what_is_not_a_serial_is_refused() {
        for text in ["", "0x", "dec:", "xyz", "dec:12a", "1.5", "é", "10:2", "1:02", "10:2:33", "a b", "0x10:2"] {
            assert!(matches!(text.parse::<Serial>(), Err(SerialError::Text(_))), "{text}");
        }
        assert_eq!("80".repeat(20).parse::<Serial>(), Err(SerialError::TooLong));
        assert_eq!(Serial::from_content(&[0, 1]), Err(SerialError::NotMinimal));
        assert_eq!(Serial::from_content(&[]), Err(SerialError::Empty));
        assert_eq!(Serial::from_content(&[1; 21]), Err(SerialError::TooLong));
    }

    #[test]
    fn sec_18_negative_and_positive_twins_differ_and_come_back_from_text() {
        for content in [&[0xff][..], &[0x80], &[0xff, 0x7f], &[0x80, 0x01], &[0x00], &[0x7f], &[0x00, 0xff]] {
            let serial = Serial::from_content(content).unwrap();
            assert_eq!(serial.to_string().parse::<Serial>().unwrap(), serial, "{content:02x?} as {serial}");
        }
        assert_ne!("-01".parse::<Serial>().unwrap(), "FF".parse::<Serial>().unwrap());
    }

    #[test]
    fn order_is_numeric() {
        let mut serials: Vec<Serial> =
            ["0100", "FF", "7F", "-01", "-80", "-0100", "00", "01"].iter().map(|s| s.parse().unwrap()).collect();
        serials.sort();
        let texts: Vec<String> = serials.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["-0100", "-80", "-01", "00", "01", "7F", "FF", "0100"]);
    }
}
