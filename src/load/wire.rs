//! Answers of HTTP/1.0 and 1.1, cut out of what a connection brings (RFC 9112).
//!
//! Goes in: octets as they come, in pieces of any size. Comes out: the head of each answer, and its body
//! piece by piece, still where it was read. Only what a load tool must know of a head is kept.
//!
//! Invariant: no octets end in a panic, and what is held of a head is bounded.

/// No honest head is longer.
const MAX_HEAD: usize = 64 << 10;
/// An entity tag that is longer is not compared.
const MAX_TAG: usize = 96;

/// What came is no HTTP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NotHttp(
    /// What is wrong with it, for people to read.
    pub(super) &'static str,
);

/// An entity tag, quotes and all.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) struct Tag {
    len: u8,
    octets: [u8; MAX_TAG],
}

impl Tag {
    fn new(text: &[u8]) -> Option<Self> {
        let mut octets = [0; MAX_TAG];
        octets.get_mut(..text.len())?.copy_from_slice(text);
        Some(Self { len: u8::try_from(text.len()).ok()?, octets })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.octets.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

/// What is kept of the head of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    pub(super) status: u16,
    /// Content-Length, where that tells how long the body is.
    pub(super) length: Option<u64>,
    /// The connection ends after this answer.
    pub(super) close: bool,
    pub(super) tag: Option<Tag>,
    /// First and last octet and whole length of Content-Range.
    pub(super) range: Option<(u64, u64, u64)>,
    chunked: bool,
}

impl Head {
    /// Reads the head that ends with the last octet of `bytes`.
    fn read(bytes: &[u8]) -> Result<Self, NotHttp> {
        let mut lines = bytes.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut head = Self::read_status(lines.next().unwrap_or_default())?;
        for line in lines {
            // Names are told apart by their length first: most headers are of no interest here.
            let Some(colon) = line.iter().position(|octet| *octet == b':') else { continue };
            let (name, value) = line.split_at(colon);
            let value = || value.get(1..).unwrap_or_default().trim_ascii();
            match colon {
                4 if name.eq_ignore_ascii_case(b"etag") => head.tag = Tag::new(value()),
                10 if name.eq_ignore_ascii_case(b"connection") => head.connection(value()),
                13 if name.eq_ignore_ascii_case(b"content-range") => head.range = content_range(value()),
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    let length = decimal(value()).ok_or(NotHttp("a Content-Length that is no number"))?;
                    if head.length.is_some_and(|before| before != length) {
                        return Err(NotHttp("two values of Content-Length"));
                    }
                    head.length = Some(length);
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    if !value().eq_ignore_ascii_case(b"chunked") {
                        return Err(NotHttp("a Transfer-Encoding other than chunked"));
                    }
                    head.chunked = true;
                }
                _ => {}
            }
        }
        Ok(head)
    }

    fn read_status(line: &[u8]) -> Result<Self, NotHttp> {
        let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', version @ (b'0' | b'1'), b' ', status @ ..] = line else {
            return Err(NotHttp("the answer does not begin with HTTP/1"));
        };
        let status = match status {
            [a, b, c, b' ', ..] | [a, b, c] => decimal(&[*a, *b, *c]),
            _ => None,
        };
        let status = status.and_then(|status| u16::try_from(status).ok()).filter(|status| *status >= 100);
        let status = status.ok_or(NotHttp("a status line without a status"))?;
        Ok(Self { status, length: None, close: *version == b'0', tag: None, range: None, chunked: false })
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|octet| *octet == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.close = false;
            }
        }
    }

    const fn has_no_body(&self) -> bool {
        matches!(self.status, 204 | 304)
    }

    const fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// `bytes 0-99/1000`.
fn content_range(value: &[u8]) -> Option<(u64, u64, u64)> {
    let mut parts = value.strip_prefix(b"bytes ")?.split(|octet| matches!(octet, b'-' | b'/'));
    Some((decimal(parts.next()?)?, decimal(parts.next()?)?, decimal(parts.next()?)?))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

/// Where in an answer the reader stands.
#[derive(Clone, Copy, Debug)]
enum State {
    Head,
    Length(u64),
    UntilClose,
    /// In the line with a chunk's size, of which so many digits make this number.
    Size {
        size: u64,
        digits: u8,
        /// In the extensions, which mean nothing here.
        rest: bool,
    },
    Chunk(u64),
    /// In the line end behind a chunk.
    ChunkEnd,
    /// In the trailer, at a line of so many octets so far.
    Trailer(u32),
}

/// What a piece of input came to.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Step<'a> {
    /// All of it was read, and the answer goes on.
    More,
    /// A piece of the body.
    Part(&'a [u8]),
    /// The last piece of the body, maybe empty: the answer is complete.
    Last(&'a [u8]),
}

/// What the end of a connection means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// No answer had begun.
    Idle,
    /// It is the end of the answer.
    Complete,
    /// The answer is not all there.
    Truncated,
}

/// Reads the answers of one connection.
#[derive(Debug)]
pub(super) struct Reader {
    state: State,
    /// The beginning of a head that has not come completely.
    held: Vec<u8>,
    head: Head,
}

impl Reader {
    pub(super) const fn new() -> Self {
        let head = Head { status: 0, length: None, close: false, tag: None, range: None, chunked: false };
        Self { state: State::Head, held: Vec::new(), head }
    }

    /// The head of the answer that the last step was about.
    pub(super) const fn head(&self) -> &Head {
        &self.head
    }

    /// Gets ready for a new connection.
    pub(super) fn restart(&mut self) {
        self.state = State::Head;
        self.held.clear();
    }

    pub(super) const fn end(&self) -> End {
        match self.state {
            State::Head if self.held.is_empty() => End::Idle,
            State::UntilClose => End::Complete,
            _ => End::Truncated,
        }
    }

    /// Takes one step over `input`, which is left at what was not read.
    pub(super) fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, NotHttp> {
        loop {
            match self.state {
                State::Head => {
                    if !self.take_head(input)? {
                        return Ok(Step::More);
                    }
                    if self.head.is_interim() {
                        continue;
                    }
                    self.state = match (self.head.chunked, self.head.length) {
                        _ if self.head.has_no_body() => State::Length(0),
                        (true, _) => State::Size { size: 0, digits: 0, rest: false },
                        (false, Some(length)) => State::Length(length),
                        (false, None) => {
                            self.head.close = true;
                            State::UntilClose
                        }
                    };
                }
                State::Length(left) => {
                    let part = take(input, left);
                    let left = left - part.len() as u64;
                    if left == 0 {
                        self.state = State::Head;
                        return Ok(Step::Last(part));
                    }
                    self.state = State::Length(left);
                    return Ok(if part.is_empty() { Step::More } else { Step::Part(part) });
                }
                State::UntilClose => {
                    let part = take(input, u64::MAX);
                    return Ok(if part.is_empty() { Step::More } else { Step::Part(part) });
                }
                State::Chunk(left) => {
                    let part = take(input, left);
                    let left = left - part.len() as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    return Ok(if part.is_empty() { Step::More } else { Step::Part(part) });
                }
                State::Size { .. } | State::ChunkEnd | State::Trailer(_) => {
                    let Some((octet, rest)) = input.split_first() else { return Ok(Step::More) };
                    *input = rest;
                    if self.between_chunks(*octet)? {
                        self.state = State::Head;
                        return Ok(Step::Last(&[]));
                    }
                }
            }
        }
    }

    /// Whether a head is complete now; it is kept then.
    fn take_head(&mut self, input: &mut &[u8]) -> Result<bool, NotHttp> {
        if self.held.is_empty() {
            if let Some(end) = head_end(input, 0) {
                let (head, rest) = input.split_at(end);
                self.head = Head::read(head)?;
                *input = rest;
                return Ok(true);
            }
            // A stranger's protocol need not be waited for until its buffer is full.
            let seen = input.len().min(5);
            if input.get(..seen) != b"HTTP/".get(..seen) {
                return Err(NotHttp("the answer does not begin with HTTP/1"));
            }
        }
        let before = self.held.len();
        let taken = input.len().min(MAX_HEAD + 1 - before.min(MAX_HEAD));
        let (now, _) = input.split_at(taken);
        self.held.extend_from_slice(now);
        match head_end(&self.held, before.saturating_sub(3)) {
            Some(end) => {
                self.head = Head::read(self.held.get(..end).unwrap_or_default())?;
                self.held.clear();
                // What was held before had no end, so that the end is in what came now.
                *input = input.get(end - before..).unwrap_or_default();
                Ok(true)
            }
            None if self.held.len() > MAX_HEAD => Err(NotHttp("a head without an end")),
            None => {
                *input = &[];
                Ok(false)
            }
        }
    }

    /// Takes an octet that belongs to no chunk; whether the body is complete with it.
    fn between_chunks(&mut self, octet: u8) -> Result<bool, NotHttp> {
        self.state = match (self.state, octet) {
            (State::Size { digits: 0, .. }, b'\n') => return Err(NotHttp("a chunk without a size")),
            (State::Size { size: 0, .. }, b'\n') => State::Trailer(0),
            (State::Size { size, .. }, b'\n') => State::Chunk(size),
            (State::Size { size, digits, .. }, b'\r' | b';' | b' ') => State::Size { size, digits, rest: true },
            (State::Size { rest: true, .. }, _) => self.state,
            (State::Size { size, digits, rest: false }, octet) => {
                let digit = char::from(octet).to_digit(16).filter(|_| digits < 15);
                let digit = digit.ok_or(NotHttp("a chunk's size that is no number"))?;
                State::Size { size: size << 4 | u64::from(digit), digits: digits + 1, rest: false }
            }
            (State::ChunkEnd, b'\r') => State::ChunkEnd,
            (State::ChunkEnd, b'\n') => State::Size { size: 0, digits: 0, rest: false },
            (State::ChunkEnd, _) => return Err(NotHttp("a chunk that is longer than its size")),
            (State::Trailer(0), b'\n') => return Ok(true),
            (State::Trailer(_), b'\n') => State::Trailer(0),
            (State::Trailer(len), b'\r') => State::Trailer(len),
            (State::Trailer(len), _) if len > 8 << 10 => return Err(NotHttp("a trailer without an end")),
            (State::Trailer(len), _) => State::Trailer(len + 1),
            (other, _) => other,
        };
        Ok(false)
    }
}

/// Cuts at most `most` octets off the front of `input`.
fn take<'a>(input: &mut &'a [u8], most: u64) -> &'a [u8] {
    let (part, rest) = input.split_at(usize::try_from(most).map_or(input.len(), |most| most.min(input.len())));
    *input = rest;
    part
}

/// The place behind the empty line that ends a head, looked for from `from` on.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|octet| *octet == b'\n')? + 1;
        match bytes.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Every answer in `bytes`, which come in pieces of `size`, with status and body.
    fn answers(bytes: &[u8], size: usize) -> Result<Vec<(u16, Vec<u8>)>, NotHttp> {
        let (mut reader, mut found, mut body) = (Reader::new(), Vec::new(), Vec::new());
        for mut piece in bytes.chunks(size) {
            loop {
                match reader.step(&mut piece)? {
                    Step::More => break,
                    Step::Part(part) => body.extend_from_slice(part),
                    Step::Last(part) => {
                        body.extend_from_slice(part);
                        found.push((reader.head().status, std::mem::take(&mut body)));
                        if piece.is_empty() {
                            break;
                        }
                    }
                }
            }
        }
        if reader.end() == End::Complete {
            found.push((reader.head().status, body));
        }
        Ok(found)
    }

    #[test]
    fn answers_are_the_same_in_pieces_of_any_size() {
        let stream = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\nhello\
            HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n\
            HTTP/1.0 503\nConnection: keep-alive\ncontent-length:0\n\n\
            HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nB\r\nhello world\r\n0\r\nT: u\r\n\r\n\
            HTTP/1.1 206 Partial Content\r\n\r\nto the end";
        let expected: Vec<(u16, Vec<u8>)> =
            [(200, &b"hello"[..]), (304, b""), (503, b""), (200, b"abchello world"), (206, b"to the end")]
                .map(|(status, body)| (status, body.to_vec()))
                .into();
        for size in 1..=stream.len() {
            assert_eq!(answers(stream, size).unwrap(), expected, "pieces of {size}");
        }
    }

    #[test]
    fn what_a_head_says_is_read() {
        let head = |text: &[u8]| Head::read(text).unwrap();
        let full =
            head(b"HTTP/1.1 206 X\r\nCONTENT-RANGE: bytes 5-9/100\r\nETag: W/\"a\"\r\nConnection: x, Close\r\n\r\n");
        assert_eq!((full.range, full.close), (Some((5, 9, 100)), true));
        assert_eq!(full.tag.unwrap().as_bytes(), b"W/\"a\"");
        assert!(head(b"HTTP/1.0 200 OK\r\n\r\n").close);
        assert!(!head(b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n").close);
        assert!(!head(b"HTTP/1.1 200\r\n\r\n").close);
        assert_eq!(head(&[b"HTTP/1.1 200\r\nETag: ", &[b'x'; 200][..], b"\r\n\r\n"].concat()).tag, None);
    }

    #[test]
    fn what_is_no_http_is_refused_at_once_or_within_bounds() {
        for garbage in [
            &b"SSH-2.0-OpenSSH\r\n"[..],
            b"\x15\x03\x01",
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        ] {
            for size in [1, 7, garbage.len()] {
                assert!(answers(garbage, size).is_err(), "{}", String::from_utf8_lossy(garbage));
            }
        }
        let endless = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(MAX_HEAD)].concat();
        for size in [1000, endless.len()] {
            assert_eq!(answers(&endless, size), Err(NotHttp("a head without an end")));
        }
    }

    #[test]
    fn the_end_of_a_connection_is_told_apart() {
        let end = |bytes: &[u8]| {
            let mut reader = Reader::new();
            let mut input = bytes;
            while !input.is_empty() {
                reader.step(&mut input).unwrap();
            }
            reader.end()
        };
        assert_eq!(end(b""), End::Idle);
        assert_eq!(end(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"), End::Idle);
        assert_eq!(end(b"HTTP/1.1 200 OK\r\n\r\nx"), End::Complete);
        assert_eq!(end(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx"), End::Truncated);
        assert_eq!(end(b"HTTP/1.1 2"), End::Truncated);
        assert_eq!(end(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"), End::Truncated);
    }
}
