//! Logs: to stderr, as text for people or JSON for machines, at a level that can change while we run.
//!
//! Goes in: the config's format and level; the environment variable [`LEVEL_VARIABLE`] overrides the
//! level, also one that is set later. Comes out: [`Logs`], with which it is set. Nothing here logs a request's bytes
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

/// What is written where a level should be.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "{0:?} is no log level: use error, warn, info, debug, trace or off, also by module as in \"info,jarchy::feed=debug\""
)]
pub struct LevelError(String);

/// Why logging cannot be set up or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The level does not parse.
    #[error("{whose}: {source}")]
    Level {
        /// Where it stands.
        whose: &'static str,
        /// What is wrong with it.
        source: LevelError,
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
    /// Whether the environment has chosen it.
    forced: bool,
}

/// Starts logging to stderr. Call it once, before there is anything to say.
///
/// # Errors
/// [`TelemetryError::Level`] for the configured level or that of the environment, [`TelemetryError::Twice`].
pub fn init(format: Format, level: &str) -> Result<Logs, TelemetryError> {
    // An empty variable is one that was not set.
    let forced = std::env::var(LEVEL_VARIABLE).ok().filter(|level| !level.trim().is_empty());
    let filter = match &forced {
        Some(level) => parse(level).map_err(|source| TelemetryError::Level { whose: LEVEL_VARIABLE, source }),
        None => of_config(level),
    };
    let (filter, handle) = reload::Layer::new(filter?);
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        Format::Json => lines.with_ansi(false).json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|_| TelemetryError::Twice)?;
    Ok(Logs { filter: handle, forced: forced.is_some() })
}

impl Logs {
    /// Logs at `level` from now on, unless the environment has chosen another.
    ///
    /// # Errors
    /// [`TelemetryError::Level`]; the level stays as it was.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        let filter = of_config(level)?;
        if self.forced {
            return Ok(());
        }
        self.filter.reload(filter).map_err(|_| TelemetryError::Ended)
    }
}

fn of_config(level: &str) -> Result<EnvFilter, TelemetryError> {
    parse(level).map_err(|source| TelemetryError::Level { whose: "[log] level", source })
}

/// Whether `level` is one, or a list of them by module.
///
/// # Errors
/// If not, what is wrong with it.
pub fn check(level: &str) -> Result<(), LevelError> {
    parse(level).map(drop)
}

fn parse(level: &str) -> Result<EnvFilter, LevelError> {
    let wrong = |what: &str| LevelError(what.to_owned());
    let directives = level.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    let directives = directives.map(|directive| directive_of(directive).ok_or_else(|| wrong(directive)));
    let directives = directives.collect::<Result<Vec<_>, _>>()?.join(",");
    let directives = if directives.is_empty() { "info" } else { &directives };
    EnvFilter::builder().parse(directives).map_err(|_| wrong(level))
}

/// As the filter understands it: that would take a level which it does not know for the name of a module, of which
/// alone it would then speak.
fn directive_of(written: &str) -> Option<String> {
    let (module, level) = match written.rsplit_once('=') {
        Some((module, level)) => (Some(module.trim_end()), level),
        None if written.contains("::") => (Some(written), "trace"),
        None => (None, written),
    };
    let level = match level.trim().to_ascii_lowercase().as_str() {
        "warning" => "warn",
        known => ["error", "warn", "info", "debug", "trace", "off"].into_iter().find(|level| *level == known)?,
    };
    Some(module.map_or_else(|| level.to_owned(), |module| format!("{module}={level}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn levels_that_people_write_mean_what_they_say() {
        for (level, means) in [
            ("error", "error"),
            ("INFO", "info"),
            ("warning", "warn"),
            ("Warning, jarchy::feed = Warning", "jarchy::feed=warn,warn"),
            ("info,jarchy::feed=debug", "jarchy::feed=debug,info"),
            ("jarchy::crl", "jarchy::crl=trace"),
            ("off", "off"),
            ("", "info"),
        ] {
            assert_eq!(parse(level).unwrap().to_string(), means, "{level}");
        }
    }

    #[test]
    fn what_is_no_level_is_not_taken_for_a_module() {
        for level in ["jarchy=loud", "error2", "nonsense", "info,verbose", "2"] {
            let error = parse(level).unwrap_err().to_string();
            let wrong = level.strip_prefix("info,").unwrap_or(level);
            assert!(error.contains(&format!("{wrong:?} is no log level")) && error.contains("debug"), "{error}");
        }
    }
}
