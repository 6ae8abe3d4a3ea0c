//! Fetching a CRL again and again: whole, in parts (RFC 9110 14), and only if it has changed (RFC 9110 13.1.2).
//!
//! Goes in: the shares of each, and a check that says whether a list can be believed. Comes out: requests, and a
//! judgement of each answer. The first answer under an entity tag is kept and checked; each later one, or part of
//! one, must have the very octets that were kept. So every octet is judged, and nothing is verified twice.

use super::status::{Random, Share};
use super::wire::{Head, Tag};
use super::{Exchange, Problem, Right, Target, Verdict};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// No list is larger.
const MAX_LIST: usize = 1 << 30;
/// Versions kept, for answers that were on their way when the list changed.
const VERSIONS: usize = 3;
/// Octets of the largest part that is asked for.
const MAX_PART: u64 = 1 << 20;

/// Says what is wrong with a list.
type Check = dyn Fn(&[u8]) -> Result<(), String> + Send + Sync;

/// One version of the list.
struct Version {
    tag: Option<Tag>,
    octets: Vec<u8>,
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} octets", self.tag, self.octets.len())
    }
}

/// How a list is fetched; what is known of it is shared by all threads.
pub struct Mix {
    /// How many requests carry If-None-Match.
    pub conditional: Share,
    /// How many ask for a part.
    pub range: Share,
    /// Where the random choices begin.
    pub seed: u64,
    check: Box<Check>,
    versions: Mutex<Vec<Arc<Version>>>,
}

impl fmt::Debug for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { conditional, range, seed, versions, .. } = self;
        f.debug_struct("Mix")
            .field("conditional", conditional)
            .field("range", range)
            .field("seed", seed)
            .field("versions", versions)
            .finish_non_exhaustive()
    }
}

impl Mix {
    /// `check` says what is wrong with a list; it is asked once for each version.
    pub fn new(
        conditional: Share,
        range: Share,
        seed: u64,
        check: impl Fn(&[u8]) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { conditional, range, seed, check: Box::new(check), versions: Mutex::default() }
    }

    fn find(&self, tag: &Tag) -> Option<Arc<Version>> {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.iter().rfind(|version| version.tag.as_ref() == Some(tag)).cloned()
    }

    fn latest(&self) -> Option<Arc<Version>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    fn keep(&self, version: Version) -> Arc<Version> {
        let version = Arc::new(version);
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if versions.len() == VERSIONS {
            versions.remove(0);
        }
        versions.push(version.clone());
        version
    }
}

/// What is done with a body.
#[derive(Debug, Default)]
enum Body {
    /// Nothing of it has come.
    #[default]
    Awaited,
    /// It is only counted.
    Counted,
    /// It is held against what is known, from the place that was reached on.
    Compared { with: Arc<Version>, at: usize, differs: bool },
    /// It is kept, to be checked.
    Kept(Vec<u8>),
}

/// What has to be remembered of a request.
#[derive(Debug, Default)]
pub struct Asked {
    /// The version whose tag was sent.
    known: Option<Arc<Version>>,
    /// First and last octet that were asked for.
    range: Option<(u64, u64)>,
    body: Body,
    octets: u64,
}

/// One thread's downloads; see the module's text.
#[derive(Debug)]
pub struct Downloads {
    mix: Arc<Mix>,
    random: Random,
    /// The request up to the headers that differ.
    head: Vec<u8>,
    current: Option<Arc<Version>>,
}

const WHOLE: usize = 0;
const CONDITIONAL: usize = 1;
const RANGE: usize = 2;
const NOT_MODIFIED: usize = 1;
const PART: usize = 2;
const VERIFIED: u8 = 1;

impl Downloads {
    /// The downloads of `thread` from `target`; `close` asks for the end of the connection each time.
    #[must_use]
    pub fn new(mix: Arc<Mix>, target: &Target, close: bool, thread: usize) -> Self {
        let Target { host, path, .. } = target;
        let close = if close { "Connection: close\r\n" } else { "" };
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{close}").into_bytes();
        Self { random: Random::of_thread(mix.seed, thread), current: mix.latest(), mix, head }
    }

    /// Decides, by the head of the answer, what is done with its body.
    fn begin(&mut self, head: &Head) -> Body {
        let known = head.tag.as_ref().and_then(|tag| {
            let is_current = self.current.as_ref().is_some_and(|current| current.tag.as_ref() == Some(tag));
            if is_current { self.current.clone() } else { self.mix.find(tag) }
        });
        match (head.status, known) {
            (200, None) => Body::Kept(Vec::with_capacity(head.length.map_or(0, |length| length.min(1 << 26) as usize))),
            (200, Some(with)) => Body::Compared { with, at: 0, differs: false },
            (206, Some(with)) => {
                let at = head.range.and_then(|(first, ..)| usize::try_from(first).ok()).unwrap_or(usize::MAX);
                Body::Compared { with, at, differs: false }
            }
            _ => Body::Counted,
        }
    }

    fn judge_whole(&mut self, tag: Option<Tag>, body: Body, octets: u64) -> Result<Right, (Problem, String)> {
        let right = Right { outcome: WHOLE, marks: VERIFIED, octets };
        match body {
            Body::Compared { with, differs, .. } => {
                same(&with, differs)?;
                if with.octets.len() as u64 != octets {
                    let text = format!("{octets} octets, where {} came under {:?}", with.octets.len(), with.tag);
                    return Err((Problem::OtherLength, text));
                }
                self.current = Some(with);
            }
            Body::Kept(kept) if kept.len() >= MAX_LIST => {
                return Err((Problem::TooLarge, "a list of more than 1 GiB".to_owned()));
            }
            Body::Kept(kept) => {
                (self.mix.check)(&kept).map_err(|wrong| (Problem::List, wrong))?;
                self.current = Some(self.mix.keep(Version { tag, octets: kept }));
            }
            Body::Awaited | Body::Counted => {}
        }
        Ok(right)
    }
}

/// That what came is what was kept.
fn same(with: &Version, differs: bool) -> Result<(), (Problem, String)> {
    if differs {
        return Err((Problem::OtherOctets, format!("other octets than before under {:?}", with.tag)));
    }
    Ok(())
}

fn judge_part(asked: &Asked, head: &Head) -> Result<Right, (Problem, String)> {
    let Some((first, last)) = asked.range else {
        return Err((Problem::Range, "a part of a list that was asked for as a whole".to_owned()));
    };
    let (from, to, whole) = head.range.unwrap_or_default();
    let wanted = last.min(whole.saturating_sub(1));
    if (from, to) != (first, wanted) || asked.octets != to - from + 1 {
        let text = format!("asked for {first}-{last}, got {from}-{to} of {whole}, {} octets", asked.octets);
        return Err((Problem::Range, text));
    }
    match &asked.body {
        Body::Compared { with, differs, .. } => {
            same(with, *differs)?;
            Ok(Right { outcome: PART, marks: VERIFIED, octets: asked.octets })
        }
        _ => Ok(Right { outcome: PART, marks: 0, octets: asked.octets }),
    }
}

fn judge_unchanged(asked: &Asked, head: &Head) -> Result<Right, (Problem, String)> {
    match &asked.known {
        None => Err((Problem::Unchanged, "304 where no tag was sent".to_owned())),
        Some(known) if head.tag.is_some() && head.tag != known.tag => {
            Err((Problem::Unchanged, format!("304 with {:?} where {:?} was sent", head.tag, known.tag)))
        }
        Some(_) => Ok(Right { outcome: NOT_MODIFIED, marks: 0, octets: 0 }),
    }
}

impl Exchange for Downloads {
    type Asked = Asked;
    const CLASSES: &'static [&'static str] = &["whole", "conditional", "range"];
    const OUTCOMES: &'static [&'static str] = &["whole", "not modified", "part"];
    const MARKS: &'static [&'static str] = &["octets of a verified list"];

    fn ask(&mut self, asked: &mut Asked, out: &mut Vec<u8>) -> usize {
        *asked = Asked::default();
        out.extend_from_slice(&self.head);
        let mut class = WHOLE;
        if let Some(current) = &self.current {
            let len = current.octets.len() as u64;
            if self.mix.range.falls(self.random.next()) && len > 0 {
                let first = self.random.below(len);
                let last = first + self.random.below((len - first).min(MAX_PART));
                out.extend_from_slice(format!("Range: bytes={first}-{last}\r\n").as_bytes());
                asked.range = Some((first, last));
                class = RANGE;
            } else if let Some(tag) = current.tag.filter(|_| self.mix.conditional.falls(self.random.next())) {
                out.extend_from_slice(b"If-None-Match: ");
                out.extend_from_slice(tag.as_bytes());
                out.extend_from_slice(b"\r\n");
                asked.known = Some(current.clone());
                class = CONDITIONAL;
            }
        }
        out.extend_from_slice(b"\r\n");
        class
    }

    fn gather(&mut self, asked: &mut Asked, head: &Head, part: &[u8]) {
        if matches!(asked.body, Body::Awaited) {
            asked.body = self.begin(head);
        }
        asked.octets += part.len() as u64;
        match &mut asked.body {
            Body::Compared { with, at, differs } => {
                let end = at.saturating_add(part.len());
                *differs |= with.octets.get(*at..end) != Some(part);
                *at = end;
            }
            Body::Kept(kept) => {
                let room = MAX_LIST.saturating_sub(kept.len());
                kept.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
            }
            Body::Awaited | Body::Counted => {}
        }
    }

    fn judge(&mut self, asked: &mut Asked, head: &Head, last: &[u8]) -> Verdict {
        self.gather(asked, head, last);
        let judged = match head.status {
            200 => self.judge_whole(head.tag, std::mem::take(&mut asked.body), asked.octets),
            206 => judge_part(asked, head),
            304 => judge_unchanged(asked, head),
            status => Err((Problem::Http(status), Problem::Http(status).label().into_owned())),
        };
        match judged {
            Ok(right) => Verdict::Right(right),
            Err((problem, text)) => Verdict::Problem(problem, text),
        }
    }
}
