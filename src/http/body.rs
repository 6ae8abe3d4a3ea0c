//! Bodies: those of requests, read up to a limit; those of answers, handed to hyper without a copy.
//!
//! Large lists are handed out in pieces, so that a reader of an old one can be cut: a CRL of 36 MB that
//! is rebuilt every second, with a slow reader on each, would otherwise fill the memory ([`Versions`]).

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use thiserror::Error;

/// Lists up to this size are handed over whole: they fit the socket's buffer, or nearly.
const PIECE: usize = 256 * 1024;
/// Versions of one large list that may be on their way to readers at once.
const LIVE_VERSIONS: usize = 3;

/// Why a request's body was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is longer than allowed.
    TooLarge,
    /// It broke off, or its chunks are malformed.
    Broken,
}

/// Reads a body of at most `limit` octets.
pub(super) async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, Unread> {
    // What Content-Length announces is refused unread.
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(Unread::TooLarge);
    }
    let Some(first) = data(&mut body).await? else { return Ok(Bytes::new()) };
    // The usual case: all of it came with the head, and nothing is copied.
    if body.is_end_stream() && first.len() <= limit {
        return Ok(first);
    }
    let mut whole = BytesMut::from(first);
    while whole.len() <= limit {
        match data(&mut body).await? {
            Some(next) => whole.extend_from_slice(&next),
            None => return Ok(whole.freeze()),
        }
    }
    Err(Unread::TooLarge)
}

async fn data(body: &mut Incoming) -> Result<Option<Bytes>, Unread> {
    while let Some(frame) = body.frame().await {
        // Trailers say nothing that we want to know.
        if let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// A reader was cut because newer versions of the list are being read.
#[derive(Debug, Error)]
#[error("newer versions of this list are being read")]
pub(super) struct Superseded;

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Payload {
    rest: Bytes,
    version: Option<Arc<Version>>,
}

impl From<Bytes> for Payload {
    fn from(rest: Bytes) -> Self {
        Self { rest, version: None }
    }
}

impl Payload {
    /// A list, one of `versions`; `number` tells it from the others.
    pub(super) fn list(bytes: Bytes, number: u64, versions: &Versions) -> Self {
        let version = (bytes.len() > PIECE).then(|| versions.lease(number));
        Self { rest: bytes, version }
    }

    pub(super) const fn comes_in_pieces(&self) -> bool {
        self.version.is_some()
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Superseded;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Superseded>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        if this.version.as_ref().is_some_and(|version| version.superseded.load(Ordering::Relaxed)) {
            return Poll::Ready(Some(Err(Superseded)));
        }
        let piece = if this.version.is_some() { PIECE.min(this.rest.len()) } else { this.rest.len() };
        Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.rest.len()).unwrap_or(u64::MAX))
    }
}

#[derive(Debug)]
struct Version {
    number: u64,
    superseded: AtomicBool,
}

/// Which versions of one large list are on their way to readers, oldest first.
#[derive(Debug, Default)]
pub(super) struct Versions(Mutex<VecDeque<Weak<Version>>>);

impl Versions {
    /// Takes part in `number`; readers of the oldest are cut if there are too many versions now.
    fn lease(&self, number: u64) -> Arc<Version> {
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|version| version.strong_count() > 0);
        if let Some(version) = live.iter().filter_map(Weak::upgrade).find(|version| version.number == number) {
            return version;
        }
        while live.len() >= LIVE_VERSIONS {
            if let Some(oldest) = live.pop_front().and_then(|version| version.upgrade()) {
                oldest.superseded.store(true, Ordering::Relaxed);
            }
        }
        let version = Arc::new(Version { number, superseded: AtomicBool::new(false) });
        live.push_back(Arc::downgrade(&version));
        version
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn next(payload: &mut Payload) -> Option<Result<usize, Superseded>> {
        let Poll::Ready(frame) = Pin::new(payload).poll_frame(&mut Context::from_waker(std::task::Waker::noop()))
        else {
            unreachable!("a payload is always ready")
        };
        Some(frame?.map(|frame| frame.into_data().unwrap().len()))
    }

    #[test]
    fn a_large_list_comes_in_pieces_and_a_small_one_whole() {
        let versions = Versions::default();
        let mut large = Payload::list(Bytes::from(vec![0; PIECE * 2 + 1]), 1, &versions);
        assert_eq!(large.size_hint().exact(), Some(u64::try_from(PIECE * 2 + 1).unwrap()));
        let pieces: Vec<usize> = std::iter::from_fn(|| next(&mut large)).map(Result::unwrap).collect();
        assert_eq!(pieces, [PIECE, PIECE, 1]);
        let mut small = Payload::list(Bytes::from(vec![0; PIECE]), 1, &versions);
        assert_eq!(next(&mut small).unwrap().unwrap(), PIECE);
        assert!(small.is_end_stream() && next(&mut small).is_none());
    }

    #[test]
    fn the_oldest_of_four_versions_is_cut_and_the_three_newest_are_not() {
        let versions = Versions::default();
        let open = |number| Payload::list(Bytes::from(vec![0; PIECE * 2]), number, &versions);
        let (mut one, mut also_one) = (open(1), open(1));
        let mut newer = [open(2), open(3)];
        assert!(next(&mut one).unwrap().is_ok());
        let mut four = open(4);
        assert!(next(&mut one).unwrap().is_err() && next(&mut also_one).unwrap().is_err());
        assert!(newer.iter_mut().chain([&mut four]).all(|payload| next(payload).unwrap().is_ok()));
        // One that has been read to its end no longer counts.
        drop(newer);
        let five = open(5);
        assert!(next(&mut four).unwrap().is_ok());
        drop(five);
    }
}
