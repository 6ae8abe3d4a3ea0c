//! The vocabulary that every other module speaks: serials, statuses, times, certificates, issuers.
//!
//! Goes in: DER and text. Comes out: small values that are cheap to copy and compare, and views of the bytes
//! that others signed. Nothing here does input or output, and nothing makes an answer or a list.

pub mod certificate;
pub mod guard;
pub mod hash;
pub mod issuer;
pub mod list;
pub mod serial;
pub mod status;
pub mod time;

pub use certificate::Certificate;
pub use guard::{ClockDoubt, ClockGuard, GuardedClock, TOLERANCE};
pub use hash::HashAlgorithm;
pub use issuer::{Issuer, IssuerName};
pub use serial::Serial;
pub use status::{Reason, Revocation, Status};
pub use time::{Clock, ManualClock, SystemClock, Time};
