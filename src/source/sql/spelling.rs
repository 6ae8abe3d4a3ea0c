//! How a column spells serials, so that they can be asked for as they stand there, where its index finds them.
//!
//! Goes in: the cells that were read, and the serials that they mean. Comes out: conditions of SQL by which serials are
//! found: on the bare column, in the forms that were seen in it; or on what the column's text comes to without case,
//! colons and leading zeros, for which a database reads all of the table. Pure.

use super::SerialAs;
use super::cells;
use super::link::Dialect;
use crate::pki::Serial;

/// Forms that are told apart; a column of more is asked without its index.
const MOST: usize = 8;
/// Values of one IN. From 1,000 on MariaDB makes a table of them.
const AT_ONCE: usize = 900;

/// One way to write the digits of a number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Form {
    prefix: &'static str,
    lower: bool,
    zeros: Zeros,
}

/// How many zeros stand before the digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Zeros {
    None,
    /// So that two digits are an octet.
    Even,
    /// As the content octets of an INTEGER.
    Signed,
    /// So that there are so many digits.
    To(usize),
}

impl Zeros {
    /// How many digits a number has that needs `least`.
    fn width(self, serial: &Serial, least: usize) -> usize {
        match self {
            Self::None => least,
            Self::Even => least.next_multiple_of(2),
            Self::Signed => serial.as_bytes().len() * 2,
            Self::To(width) => width.max(least),
        }
    }
}

/// The forms that were seen in a column.
#[derive(Debug, Default)]
pub(super) struct Forms {
    seen: Vec<Form>,
    others: bool,
}

impl Forms {
    /// Whether every serial that was seen is spelled in a known form.
    pub(super) const fn are_all(&self) -> bool {
        !self.others
    }

    /// The cell `text` means `serial`.
    pub(super) fn learn(&mut self, text: &str, serial: &Serial, written: SerialAs) {
        let plain = match written {
            SerialAs::Bytes => text.trim_start_matches("\\x").to_uppercase(),
            _ if text.starts_with("\\x") => cells::plain(text),
            _ => String::new(),
        };
        let text = if plain.is_empty() { text } else { &plain };
        let text = text.strip_prefix('-').unwrap_or(text);
        let prefix = ["0x", "0X"].into_iter().find(|prefix| written == SerialAs::Hex && text.starts_with(prefix));
        let prefix = prefix.unwrap_or_default();
        let digits = text.strip_prefix(prefix).unwrap_or(text);
        let has = |these: fn(&u8) -> bool| digits.as_bytes().iter().any(these);
        let (lower, upper) = (has(u8::is_ascii_lowercase), has(u8::is_ascii_uppercase));
        let is_digit =
            |octet: u8| octet.is_ascii_digit() || (written != SerialAs::Decimal && octet.is_ascii_hexdigit());
        if (lower && upper) || !digits.bytes().all(is_digit) {
            self.others = true;
            return;
        }
        let least = digits.trim_start_matches('0').len().max(1);
        let fits = |zeros: Zeros| zeros.width(serial, least) == digits.len();
        let is = |form: &Form| form.prefix == prefix && (form.lower == lower || !(lower || upper)) && fits(form.zeros);
        if self.seen.iter().any(is) {
            return;
        }
        let usual: &[Zeros] = match written {
            SerialAs::Decimal => &[Zeros::None],
            SerialAs::Hex => &[Zeros::None, Zeros::Even, Zeros::Signed],
            SerialAs::Bytes => &[Zeros::Even, Zeros::Signed],
        };
        let zeros = usual.iter().copied().find(|zeros| fits(*zeros)).unwrap_or(Zeros::To(digits.len()));
        match self.seen.len() < MOST {
            true => self.seen.push(Form { prefix, lower, zeros }),
            false => self.others = true,
        }
    }

    /// Every spelling of `serial` in the forms that were seen.
    fn spell(&self, serial: &Serial, written: SerialAs) -> Vec<String> {
        let digits = digits(serial, written);
        let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |digits| ("-", digits));
        let digits = if digits.is_empty() { "0" } else { digits };
        let spelling = |form: &Form| {
            let digits = if form.lower { digits.to_lowercase() } else { digits.to_owned() };
            let width = form.zeros.width(serial, digits.len());
            format!("{sign}{}{digits:0>width$}", form.prefix)
        };
        let mut all: Vec<String> = self.seen.iter().map(spelling).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The digits without leading zeros, upper-case.
fn digits(serial: &Serial, written: SerialAs) -> String {
    let all = if written == SerialAs::Decimal { serial.to_decimal() } else { serial.to_string() };
    let (sign, digits) = all.strip_prefix('-').map_or(("", all.as_str()), |digits| ("-", digits));
    format!("{sign}{}", digits.trim_start_matches('0'))
}

/// Where the serials stand in a table, and how.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) written: SerialAs,
    pub(super) dialect: Dialect,
    /// The column's type as the database calls it.
    pub(super) kind: String,
}

impl Column {
    /// Whether values can stand beside the bare column.
    pub(super) fn is_bare(&self) -> bool {
        match (self.dialect, self.written) {
            (Dialect::Sqlite, _) => true,
            (Dialect::Postgres, SerialAs::Bytes) => self.kind == "BYTEA",
            (Dialect::Postgres, _) => {
                self.is_whole() || ["BYTEA", "NUMERIC", "TEXT", "VARCHAR", "CHAR", "NAME"].contains(&&*self.kind)
            }
            (Dialect::MariaDb, _) => !["FLOAT", "DOUBLE", "BIT", "ENUM", "SET"].contains(&&*self.kind),
        }
    }

    fn is_whole(&self) -> bool {
        ["INT2", "INT4", "INT8"].contains(&&*self.kind)
    }

    /// `spelling` as values for the column; none where it cannot stand there.
    fn values(&self, spelling: &str) -> Vec<String> {
        let text = || format!("'{spelling}'");
        let is_number = spelling.strip_prefix('-').unwrap_or(spelling).bytes().all(|octet| octet.is_ascii_digit());
        let whole = || spelling.parse::<i64>().ok().filter(|_| is_number).map(|whole| whole.to_string());
        let ascii = || spelling.bytes().map(|octet| format!("{octet:02X}")).collect::<String>();
        match (self.dialect, self.written) {
            (Dialect::Postgres, SerialAs::Bytes) => vec![format!("'\\x{spelling}'")],
            (Dialect::Postgres, _) if self.kind == "BYTEA" => vec![format!("'\\x{}'", ascii())],
            (Dialect::Postgres, _) if self.is_whole() => whole().into_iter().collect(),
            (Dialect::Postgres, _) if self.kind == "NUMERIC" && !is_number => Vec::new(),
            (Dialect::Postgres, _) => vec![text()],
            (Dialect::MariaDb | Dialect::Sqlite, SerialAs::Bytes) => vec![format!("X'{spelling}'")],
            (Dialect::MariaDb, _) if self.kind == "DECIMAL" => {
                is_number.then(|| spelling.to_owned()).into_iter().collect()
            }
            // One value that the type has not, or numbers of two types, and the index does not serve.
            (Dialect::MariaDb, _) if self.kind.contains("INT") => {
                let unsigned = self.kind.contains("UNSIGNED") && spelling.parse::<u64>().is_ok();
                (unsigned || whole().is_some()).then(text).into_iter().collect()
            }
            (Dialect::MariaDb, _) => vec![text()],
            // A column may hold values of any type there.
            (Dialect::Sqlite, _) => [text(), format!("X'{}'", ascii())].into_iter().chain(whole()).collect(),
        }
    }

    /// Conditions that together find every row of `serials` that is spelled in one of `forms`, by the column's index;
    /// none if it cannot be asked so.
    pub(super) fn as_seen(&self, serials: &[Serial], forms: &Forms) -> Vec<String> {
        if !self.is_bare() {
            return Vec::new();
        }
        let spellings = serials.iter().flat_map(|serial| forms.spell(serial, self.written));
        let values: Vec<String> = spellings.flat_map(|spelling| self.values(&spelling)).collect();
        values.chunks(AT_ONCE).map(|values| format!("q.{} IN ({})", self.name, values.join(", "))).collect()
    }

    /// Conditions that together find every row of `serials`, however it is spelled.
    pub(super) fn in_any_form(&self, serials: &[Serial]) -> Vec<String> {
        let Self { name, written, dialect, kind } = self;
        let text = match (dialect, written) {
            (Dialect::Postgres, SerialAs::Hex | SerialAs::Decimal) if kind == "BYTEA" => {
                format!("encode(q.{name}, 'escape')")
            }
            _ => dialect.text(name, *written == SerialAs::Bytes),
        };
        let text = match (dialect, written) {
            (_, SerialAs::Decimal) => format!("trim({text})"),
            _ => format!("replace(replace(upper({text}), ':', ''), ' ', '')"),
        };
        let text = match dialect {
            Dialect::MariaDb => format!("TRIM(LEADING '0' FROM TRIM(LEADING '0X' FROM {text}))"),
            // Of PostgreSQL's octets the \x, too.
            Dialect::Postgres | Dialect::Sqlite => format!("ltrim({text}, '\\0X')"),
        };
        let values: Vec<String> = serials.iter().map(|serial| format!("'{}'", digits(serial, *written))).collect();
        values.chunks(AT_ONCE).map(|values| format!("{text} IN ({})", values.join(", "))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// How `asked` is spelled after these cells were seen; `None` if there are others.
    fn spelled(written: SerialAs, seen: &[&str], asked: &str) -> Option<Vec<String>> {
        let mut forms = Forms::default();
        for text in seen {
            forms.learn(text, &cells::serial(text, written).unwrap(), written);
        }
        forms.are_all().then(|| forms.spell(&asked.parse().unwrap(), written))
    }

    #[test]
    fn a_serial_is_spelled_as_those_that_were_seen() {
        use SerialAs::{Bytes, Decimal, Hex};
        let cases: [(SerialAs, &[&str], &str, &[&str]); 15] = [
            (Decimal, &["61742"], "dec:250", &["250"]),
            (Decimal, &["-5"], "-0A", &["-10"]),
            (Decimal, &["0000061742"], "dec:250", &["0000000250"]),
            (Decimal, &["\\x3631373432"], "dec:250", &["250"]),
            (Hex, &["F12E"], "0A", &["A"]),
            (Hex, &["F12E", "0B"], "0A", &["0A", "A"]),
            (Hex, &["f12e", "0b"], "0A", &["0a", "a"]),
            (Hex, &["11", "ab"], "AC", &["AC", "ac"]),
            (Hex, &["00F1", "7F"], "E1", &["00E1"]),
            (Hex, &["0xf1"], "E1", &["0xe1"]),
            (Hex, &["000000f1"], "AE1", &["00000ae1"]),
            (Hex, &["0"], "00", &["0"]),
            (Bytes, &["\\x0b"], "0A", &["0A"]),
            (Bytes, &["00F1"], "E1", &["00E1"]),
            (Bytes, &["000000F1"], "E1", &["000000E1"]),
        ];
        for (written, seen, asked, expected) in cases {
            assert_eq!(spelled(written, seen, asked).unwrap(), expected, "{seen:?}");
        }
        for (written, seen) in
            [(Hex, &["f1:2e"][..]), (Hex, &["aB"]), (Hex, &[" AB"]), (Decimal, &[" 1"]), (Decimal, &["1", " 2"])]
        {
            assert_eq!(spelled(written, seen, "01"), None, "{seen:?}");
        }
    }
}
