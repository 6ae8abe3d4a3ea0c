//! Logs: to stderr, as text for people or JSON for machines, at a level that can change while we run.
//!
//! Goes in: the config's format and level; the environment variable [`LEVEL_VARIABLE`] overrides the
//! level. Comes out: [`Logs`], with which the level is changed. Nothing here logs a request's bytes
//! (SEC-09).

use serde::Deserialize;
use std::io::{self, IsTerminal};
use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// The environment variable that overrides the configured level.
pub const LEVEL_VARIABLE: &str = "JARCHY_LOG";

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people; in colour on a terminal.
    #[default]
    Text,
    /// One flat JSON object a line.
    Json,
}

/// As it is written in the config.
impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why logging cannot be set up or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The level does not parse.
    #[error(
        "{level:?} is no log level: use error, warn, info, debug, trace or off, also by module as in \
         \"info,jarchy::feed=debug\""
    )]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else logs for this process already.
    #[error("logging is set up already")]
    Twice,
    /// Logging was shut down.
    #[error("logging has ended")]
    Ended,
}

/// Changes the level of the logs while they are written.
#[derive(Clone, Debug)]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging to stderr. Call it once, before there is anything to say.
///
/// # Errors
/// [`TelemetryError::Level`] for the configured level or that of the environment, [`TelemetryError::Twice`].
pub fn init(format: Format, level: &str) -> Result<Logs, TelemetryError> {
    let chosen = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| level.to_owned());
    let (filter, handle) = reload::Layer::new(parse(&chosen)?);
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        Format::Json => lines.with_ansi(false).json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|_| TelemetryError::Twice)?;
    Ok(Logs { filter: handle })
}

impl Logs {
    /// Logs at `level` from now on.
    ///
    /// # Errors
    /// [`TelemetryError::Level`]; the level stays as it was.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        let filter = parse(level)?;
        self.filter.reload(filter).map_err(|_| TelemetryError::Ended)
    }
}

fn parse(level: &str) -> Result<EnvFilter, TelemetryError> {
    // An empty variable is one that was not set.
    let level = if level.trim().is_empty() { "info" } else { level };
    let directives = EnvFilter::builder().parse(level);
    directives.map_err(|source| TelemetryError::Level { level: level.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn levels_that_people_write_parse() {
        for level in ["error", "INFO", "info,jarchy::feed=debug", "off", ""] {
            assert!(parse(level).is_ok(), "{level}");
        }
        let error = parse("jarchy=loud").unwrap_err().to_string();
        assert!(error.contains("jarchy=loud") && error.contains("debug"), "{error}");
    }
}
