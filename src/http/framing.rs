//! Where each request's head ends, followed byte by byte before hyper sees it.
//!
//! Goes in: what the socket delivered. Comes out: the same bytes, up to the first that leaves the extent
//! of a message open to interpretation; that one is made a NUL, which no head may contain, so that
//! hyper itself answers 400 and closes. Refused this way (SEC-12): a line that ends in a bare LF, a CR
//! without its LF, a folded header line, Content-Length with Transfer-Encoding, either of them twice, a
//! length that is not plain digits. hyper takes bare LFs and both headers (RFC 9112
//! lets it), and a proxy in front that reads them otherwise is how one client's bytes become another's
//! request.
//!
//! One thing is mended on the way: a bare space in the address of an OCSP `GET`, which some clients make
//! of the plus in base64 (HTTP-05), becomes that plus again.
//!
//! Not here: everything else about the syntax, which hyper checks.

/// Octets of ` HTTP/1.1`.
const VERSION: usize = 9;
const LONGEST_NAME: usize = "transfer-encoding".len();

/// Where in the stream the next byte stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// Between requests.
    Between,
    /// Inside a head that is not complete yet.
    Head,
    /// Inside a body.
    Body,
    /// Where no further head can come: in a chunked body, after which we close, or after a refusal.
    Last,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Between,
    RequestLine,
    LineStart,
    Name,
    Length,
    Value,
    Body,
    Chunked,
    Refused,
}

/// Follows the framing of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    after_cr: bool,
    name: [u8; LONGEST_NAME],
    /// Octets of the name so far; only the first of them are kept.
    name_len: usize,
    length: Option<u64>,
    /// White space came after the digits of the length.
    length_ended: bool,
    chunked: bool,
    /// Octets of the body that are still to come.
    body_left: u64,
    heads: u64,
}

impl Framing {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Between,
            after_cr: false,
            name: [0; LONGEST_NAME],
            name_len: 0,
            length: None,
            length_ended: false,
            chunked: false,
            body_left: 0,
            heads: 0,
        }
    }

    pub(super) const fn place(&self) -> Place {
        match self.state {
            State::Between => Place::Between,
            State::Body => Place::Body,
            State::Chunked | State::Refused => Place::Last,
            _ => Place::Head,
        }
    }

    /// Whether a request may begin here, and not a single octet of what would come before it is there.
    pub(super) const fn is_between(&self) -> bool {
        matches!(self.state, State::Between) && !self.after_cr
    }

    /// Heads that have ended so far.
    pub(super) const fn heads(&self) -> u64 {
        self.heads
    }

    /// Follows `bytes`, and makes a NUL of the one that cannot be let through.
    pub(super) fn follow(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.state == State::Between && !self.after_cr {
                mend_target(rest);
            }
            let taken = match self.state {
                State::Chunked | State::Refused => break,
                State::Body => self.skip_body(rest.len()),
                // The long parts of a head: on to the end of the line.
                State::RequestLine | State::Value if !self.after_cr => {
                    rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len())
                }
                _ => 0,
            };
            let (_, after) = std::mem::take(&mut rest).split_at_mut(taken);
            rest = after;
            if taken > 0 {
                continue;
            }
            if let Some((byte, after)) = std::mem::take(&mut rest).split_first_mut() {
                if self.step(*byte).is_none() {
                    *byte = 0;
                    self.state = State::Refused;
                }
                rest = after;
            }
        }
    }

    fn skip_body(&mut self, available: usize) -> usize {
        let taken = usize::try_from(self.body_left).unwrap_or(usize::MAX).min(available);
        self.body_left -= u64::try_from(taken).unwrap_or(0);
        if self.body_left == 0 {
            self.state = State::Between;
        }
        taken
    }

    /// One byte of a head; `None` if it must not pass.
    fn step(&mut self, byte: u8) -> Option<()> {
        if std::mem::take(&mut self.after_cr) {
            return if byte == b'\n' { self.line_ended() } else { None };
        }
        match (self.state, byte) {
            (_, b'\n') | (State::Name, b'\r') | (State::LineStart, b' ' | b'\t') => return None,
            (_, b'\r') => self.after_cr = true,
            (State::Between, _) => self.state = State::RequestLine,
            (State::LineStart, _) => {
                self.state = State::Name;
                self.name_len = 0;
                self.name_byte(byte);
            }
            (State::Name, b':') => self.name_ended()?,
            (State::Name, _) => self.name_byte(byte),
            (State::Length, _) => self.length_byte(byte)?,
            _ => {}
        }
        Some(())
    }

    fn name_byte(&mut self, byte: u8) {
        if let Some(place) = self.name.get_mut(self.name_len) {
            *place = byte.to_ascii_lowercase();
        }
        self.name_len += 1;
    }

    fn name_ended(&mut self) -> Option<()> {
        self.state = State::Value;
        match self.name.get(..self.name_len).unwrap_or_default() {
            b"content-length" if self.length.is_none() && !self.chunked => {
                self.length_ended = false;
                self.state = State::Length;
            }
            b"transfer-encoding" if self.length.is_none() && !self.chunked => self.chunked = true,
            b"content-length" | b"transfer-encoding" => return None,
            _ => {}
        }
        Some(())
    }

    fn length_byte(&mut self, byte: u8) -> Option<()> {
        match byte {
            b'0'..=b'9' if !self.length_ended => {
                let so_far = self.length.unwrap_or(0);
                self.length = Some(so_far.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?);
            }
            b' ' | b'\t' => self.length_ended = self.length.is_some(),
            _ => return None,
        }
        Some(())
    }

    fn line_ended(&mut self) -> Option<()> {
        self.state = match self.state {
            // Empty lines before a request are skipped (RFC 9112 2.2).
            State::Between => State::Between,
            State::Length if self.length.is_none() => return None,
            State::LineStart => self.head_ended(),
            _ => State::LineStart,
        };
        Some(())
    }

    fn head_ended(&mut self) -> State {
        self.heads += 1;
        self.body_left = self.length.take().unwrap_or(0);
        match (self.chunked, self.body_left) {
            (true, _) => State::Chunked,
            (false, 0) => State::Between,
            (false, _) => State::Body,
        }
    }
}

/// Puts back the pluses into an OCSP address that has spaces in their place. Only in a request line that is
/// here as a whole, as it is unless somebody sends it in pieces; what is left as it is gets a 400. RFC 9112
/// 3 advises against mending lest some filter be passed by: no address below `/ocsp` is filtered.
fn mend_target(bytes: &mut [u8]) {
    let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else { return };
    let Some(line) = bytes.get_mut(..end) else { return };
    let Some(method) = ["GET ", "HEAD "].into_iter().find(|method| line.starts_with(method.as_bytes())) else { return };
    let Some((target, version)) = line.split_at_mut_checked(end.saturating_sub(VERSION)) else { return };
    let Some(target) = target.get_mut(method.len()..) else { return };
    if version.starts_with(b" HTTP/1.") && target.starts_with(b"/ocsp/") {
        target.iter_mut().filter(|byte| **byte == b' ').for_each(|byte| *byte = b'+');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_05_spaces_in_an_ocsp_address_become_pluses_and_nowhere_else() {
        for (sent, seen) in [
            ("GET /ocsp/MA b c= HTTP/1.1\r\nX: a b\r\n\r\n", "GET /ocsp/MA+b+c= HTTP/1.1\r\nX: a b\r\n\r\n"),
            ("HEAD /ocsp/ca/MA  b HTTP/1.0\r\n\r\n", "HEAD /ocsp/ca/MA++b HTTP/1.0\r\n\r\n"),
            ("\r\nGET /ocsp/M M HTTP/1.1\r\n\r\n", "\r\nGET /ocsp/M+M HTTP/1.1\r\n\r\n"),
            (
                "GET /ocsp/MA HTTP/1.1\r\n\r\nGET /ocsp/M M HTTP/1.1\r\n\r\n",
                "GET /ocsp/MA HTTP/1.1\r\n\r\nGET /ocsp/M+M HTTP/1.1\r\n\r\n",
            ),
            ("GET /crl/a b HTTP/1.1\r\n\r\n", "GET /crl/a b HTTP/1.1\r\n\r\n"),
            ("POST /ocsp/a b HTTP/1.1\r\n\r\n", "POST /ocsp/a b HTTP/1.1\r\n\r\n"),
            ("GET /ocsp/a b\r\n\r\n", "GET /ocsp/a b\r\n\r\n"),
            ("GET /ocsp/a b HTTP/1.1", "GET /ocsp/a b HTTP/1.1"),
            ("GET \r\n", "GET \r\n"),
        ] {
            let mut bytes = sent.as_bytes().to_vec();
            Framing::new().follow(&mut bytes);
            assert_eq!(String::from_utf8_lossy(&bytes), seen);
        }
    }

    /// What hyper would be given, in pieces of every size.
    fn followed(stream: &str) -> (String, Place) {
        let mut results = [1, 2, 3, 7, stream.len()].map(|size| {
            let mut framing = Framing::new();
            let mut bytes = stream.as_bytes().to_vec();
            for piece in bytes.chunks_mut(size.max(1)) {
                framing.follow(piece);
            }
            (String::from_utf8_lossy(&bytes).into_owned(), framing.place())
        });
        results.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(results.first(), results.last(), "the pieces make a difference");
        let [first, ..] = results;
        first
    }

    #[test]
    fn plain_requests_pass_and_their_ends_are_found() {
        for (stream, place) in [
            ("", Place::Between),
            ("\r\n", Place::Between),
            ("GET / HTTP/1.0\r\n", Place::Head),
            ("GET / HTTP/1.0\r\n\r\n", Place::Between),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\nGET", Place::Head),
            ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", Place::Between),
            ("POST / HTTP/1.1\r\ncontent-LENGTH:\t 5 \r\n\r\n\n\n\n\n", Place::Body),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n\n\n\n\n\n\r\nGET /", Place::Head),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nxPOST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nx", Place::Body),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nx", Place::Last),
            ("GET / HTTP/1.1\r\nX-Content-Length-Of-Something-Else: y\r\nHost:\r\n\r\n", Place::Between),
        ] {
            assert_eq!(followed(stream), (stream.to_owned(), place), "{stream:?}");
        }
    }

    #[test]
    fn sec_12_what_can_be_read_in_two_ways_is_spoilt() {
        for (before, after) in [
            ("", "\nGET / HTTP/1.1\r\n"),
            ("GET / HTTP/1.1", "\nHost: a\n\n"),
            ("GET / HTTP/1.1\r\nHost: a", "\n\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\n", "\n"),
            ("GET / HTTP/1.1\r\nHost: a\r", "b\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\n", " folded\r\n\r\n"),
            ("GET / HTTP/1.1\r\n", "\tContent-Length: 3\r\n\r\n"),
            ("GET / HTTP/1.1\r\nContent-Length", "\r\n\r\n"),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding", ": chunked\r\n\r\n0\r\n\r\n"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length", ": 5\r\n\r\n0\r\n\r\n"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding", ": identity\r\n\r\n"),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length", ": 6\r\n\r\n"),
            ("POST / HTTP/1.1\r\nContent-Length: 5", ", 5\r\n\r\n"),
            ("POST / HTTP/1.1\r\nContent-Length: 5 ", "5\r\n\r\n"),
            ("POST / HTTP/1.1\r\nContent-Length: ", "+5\r\n\r\n"),
            ("POST / HTTP/1.1\r\nContent-Length: ", "-5\r\n\r\n"),
            ("POST / HTTP/1.1\r\nContent-Length: 0", "x5\r\n\r\n"),
            ("POST / HTTP/1.1\r\nContent-Length: \r", "\n\r\n"),
            ("POST / HTTP/1.1\r\nContent-Length: 1844674407370955161", "6\r\n\r\n"),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nxGET / HTTP/1.1", "\n\n"),
        ] {
            let spoilt = format!("{before}\0{}", &after[1..]);
            assert_eq!(followed(&format!("{before}{after}")), (spoilt, Place::Last), "{before:?} {after:?}");
        }
    }
}
