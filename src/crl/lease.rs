//! Whether this node is the one that makes an issuer's lists (promise 5: several publishers).
//!
//! Goes in: what the issuance database says, from whoever asks it. Comes out: for publishers, why no list may be made
//! now, and above which number the next one has to be.
//!
//! Invariant: what the database said counts no longer than until another node could be told the same.

use std::time::Instant;

/// Whose an issuer's lists are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lease {
    /// Nobody has said it yet; why not, if it was asked for.
    Unsaid(Option<String>),
    /// Ours.
    Ours {
        /// Until then, unless it is said again.
        until: Instant,
        /// No list that another node made has a higher number.
        floor: u64,
    },
    /// Another's: whose, and what an operator can do.
    Others(String),
    /// Nobody can know.
    Free,
}

impl Lease {
    /// Whether the database, or who asks it, has said anything.
    pub(super) const fn is_said(&self) -> bool {
        !matches!(self, Self::Unsaid(None))
    }

    /// Why no list may be made now.
    pub(super) fn refusal(&self) -> Option<String> {
        match self {
            Self::Free => None,
            Self::Ours { until, .. } if Instant::now() < *until => None,
            Self::Ours { .. } => Some(
                "the issuance database has not confirmed for too long that the CRLs are made here: none is made until \
                 it does"
                    .to_owned(),
            ),
            Self::Others(words) => Some(words.clone()),
            Self::Unsaid(why) => {
                let why = why.as_deref().unwrap_or("it was not asked yet");
                Some(format!("whether another node makes the CRLs is not known, so none is made here: {why}"))
            }
        }
    }

    /// Above which number the next list has to be.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        match self {
            Self::Ours { floor, .. } => *floor,
            _ => 0,
        }
    }
}
