//! One of the adapters, whichever the config asks for.

use super::crl::CrlSource;
use super::index_txt::IndexTxt;
use super::sql::SqlSource;
use super::{Batch, Key, OddRow, Page, PageKey, Position, Row, Source, SourceError, Waited};
use std::time::Duration;

/// An adapter of some kind.
#[derive(Debug)]
pub enum Any {
    /// OpenSSL's index.txt.
    IndexTxt(Box<IndexTxt>),
    /// The CA's own lists.
    Crl(Box<CrlSource>),
    /// A table of another program.
    Sql(Box<SqlSource>),
}

/// The same call on whichever it is.
macro_rules! each {
    ($any:expr, $source:ident => $call:expr) => {
        match $any {
            Any::IndexTxt($source) => $call,
            Any::Crl($source) => $call,
            Any::Sql($source) => $call,
        }
    };
}

impl Source for Any {
    async fn open(&mut self) -> Result<(), SourceError> {
        each!(self, source => source.open().await)
    }

    async fn head(&mut self) -> Result<Position, SourceError> {
        each!(self, source => source.head().await)
    }

    async fn page(&mut self, after: Option<&PageKey>, at_most: usize) -> Result<Page, SourceError> {
        each!(self, source => source.page(after, at_most).await)
    }

    async fn changes(&mut self, position: &Position) -> Result<Batch, SourceError> {
        each!(self, source => source.changes(position).await)
    }

    async fn wait(&mut self, patience: Duration) -> Result<Waited, SourceError> {
        each!(self, source => source.wait(patience).await)
    }

    async fn reread(&mut self, keys: &[Key]) -> Result<(Vec<Row>, Vec<OddRow>), SourceError> {
        each!(self, source => source.reread(keys).await)
    }

    fn knows_issued(&self) -> bool {
        each!(self, source => source.knows_issued())
    }

    fn remarks(&self) -> Vec<String> {
        each!(self, source => source.remarks())
    }

    fn complaint(&self) -> Option<String> {
        each!(self, source => source.complaint())
    }
}
