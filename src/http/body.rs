//! Bodies: those of requests, read up to a limit; those of answers, handed to hyper without a copy.
//!
//! A CRL of 36 MB that is rebuilt every second, with a slow reader on each, would fill the memory. Whoever
//! is sent any of a large list therefore has a [`Lease`] of it, which ends when there are too many newer
//! ones ([`Versions`]): between two pieces of the list, or by waking the socket that waits for its reader.
//!
//! Invariant: while octets of a large list are in memory for a reader, so is their lease.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

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
    lease: Option<Arc<Lease>>,
}

impl From<Bytes> for Payload {
    fn from(rest: Bytes) -> Self {
        Self { rest, lease: None }
    }
}

impl Payload {
    /// A part of a list, one of `versions`; `number` tells it from the others.
    pub(super) fn list(list: &Bytes, part: Range<usize>, number: u64, versions: &Versions) -> Self {
        // However small the part, it keeps all of the list in memory.
        let lease = (list.len() > PIECE).then(|| versions.lease(number));
        Self { rest: list.slice(part), lease }
    }

    /// By what it is cut; it then comes in pieces.
    pub(super) const fn lease(&self) -> Option<&Arc<Lease>> {
        self.lease.as_ref()
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Superseded;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Superseded>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        let Some(lease) = &this.lease else {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.rest)))));
        };
        if lease.has_ended(cx) {
            return Poll::Ready(Some(Err(Superseded)));
        }
        let octets = this.rest.split_to(PIECE.min(this.rest.len()));
        let piece = Bytes::from_owner(Piece { octets, _lease: Arc::clone(lease) });
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.rest.len()).unwrap_or(u64::MAX))
    }
}

/// What hyper holds of a large list until the client has taken it.
struct Piece {
    octets: Bytes,
    _lease: Arc<Lease>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

#[derive(Debug)]
struct Version {
    number: u64,
    superseded: Arc<Notify>,
}

/// One answer's part in a version of a large list.
#[derive(Debug)]
pub(super) struct Lease {
    _version: Arc<Version>,
    end: Mutex<Pin<Box<OwnedNotified>>>,
}

impl Lease {
    /// Whether the reader has to go; if not, its task is woken when it does.
    pub(super) fn has_ended(&self, cx: &mut Context<'_>) -> bool {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx).is_ready()
    }
}

/// Which versions of one large list are on their way to readers, oldest first.
#[derive(Debug, Default)]
pub(super) struct Versions(Mutex<VecDeque<Weak<Version>>>);

impl Versions {
    /// Takes part in `number`; readers of the oldest are cut if there are too many versions now.
    fn lease(&self, number: u64) -> Arc<Lease> {
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|version| version.strong_count() > 0);
        let known = live.iter().filter_map(Weak::upgrade).find(|version| version.number == number);
        let version = known.unwrap_or_else(|| {
            while live.len() >= LIVE_VERSIONS {
                if let Some(oldest) = live.pop_front().and_then(|version| version.upgrade()) {
                    oldest.superseded.notify_waiters();
                }
            }
            let version = Arc::new(Version { number, superseded: Arc::default() });
            live.push_back(Arc::downgrade(&version));
            version
        });
        // Under the lock, so that it hears of every end that comes.
        let end = Box::pin(Arc::clone(&version.superseded).notified_owned());
        Arc::new(Lease { _version: version, end: Mutex::new(end) })
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
        let list = |octets: usize, part| Payload::list(&Bytes::from(vec![0; octets]), part, 1, &versions);
        let mut large = list(PIECE * 2 + 1, 0..PIECE * 2 + 1);
        assert_eq!(large.size_hint().exact(), Some(u64::try_from(PIECE * 2 + 1).unwrap()));
        let pieces: Vec<usize> = std::iter::from_fn(|| next(&mut large)).map(Result::unwrap).collect();
        assert_eq!(pieces, [PIECE, PIECE, 1]);
        assert!(list(PIECE + 1, 7..9).lease().is_some());
        let mut small = list(PIECE, 0..PIECE);
        assert!(small.lease().is_none());
        assert_eq!(next(&mut small).unwrap().unwrap(), PIECE);
        assert!(small.is_end_stream() && next(&mut small).is_none());
    }

    #[test]
    fn the_oldest_of_four_versions_is_cut_and_the_three_newest_are_not() {
        let versions = Versions::default();
        let open = |number| Payload::list(&Bytes::from(vec![0; PIECE * 2]), 0..PIECE * 2, number, &versions);
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
