//! The command line: one file for each command.
//!
//! Goes in: what was typed. Comes out: an exit status. Commands on the issuance database find it through
//! the config file, so that they and the server cannot speak of two different ones.

pub mod add;
#[cfg(target_os = "linux")]
pub mod bench;
mod client;
pub mod config;
pub mod crl;
pub mod database;
pub mod demo;
pub mod healthcheck;
pub mod hold;
pub mod import;
pub mod init;
pub mod query;
pub mod release;
pub mod revoke;
mod select;
pub mod serve;
pub mod source;
pub mod status;

#[cfg(test)]
mod registry_tests;

pub use select::{Audited, IssuerChoice};

use crate::app;
use crate::config::{Config, FILE_NAME};
use crate::pki::Certificate;
use crate::registry::Registry;
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// OCSP responder and CRL publisher that runs beside a certification authority's issuance database.
#[derive(Debug, Parser)]
#[command(name = "jarchy", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Init(init::Init),
    Serve(serve::Serve),
    Add(OnRegistry<add::Add>),
    Revoke(OnRegistry<revoke::Revoke>),
    Hold(OnRegistry<hold::Hold>),
    Release(OnRegistry<release::Release>),
    Status(OnRegistry<status::Status>),
    Query(query::Query),
    Crl(crl::Crl),
    #[cfg(target_os = "linux")]
    Bench(Box<bench::Bench>),
    Healthcheck(healthcheck::Healthcheck),
    Config(config::ConfigCommand),
    Source(source::SourceCommand),
    Import(import::Import),
    Database(database::DatabaseCommand),
}

/// Where the config file is.
#[derive(Args, Clone, Debug)]
pub struct ConfigFile {
    /// The config file
    #[arg(long, value_name = "FILE", default_value = FILE_NAME)]
    config: PathBuf,
}

impl ConfigFile {
    fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(&self.config)?)
    }
}

// A command on the issuance database of a config file. No doc comment: `--help` would show it in place of
// the command's own.
#[derive(Args, Debug)]
struct OnRegistry<C: Args> {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    command: C,
}

impl<C: Args> OnRegistry<C> {
    async fn run(self, work: impl AsyncFnOnce(C, &Registry, &Config) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let config = self.config.load()?;
        on_registry(&config, async |registry| work(self.command, registry, &config).await).await
    }
}

/// Does `work` on the issuance database, and leaves that as one whole file whatever came of it.
async fn on_registry<T>(config: &Config, work: impl AsyncFnOnce(&Registry) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let registry = app::open_registry(config).await?;
    let done = work(&registry).await;
    registry.close().await;
    done
}

impl Cli {
    /// Whether it answers others until it is told to stop.
    #[must_use]
    pub const fn serves(&self) -> bool {
        matches!(self.command, Command::Demo(_) | Command::Serve(_))
    }

    /// Does what was asked for.
    ///
    /// # Errors
    /// Whatever kept it from being done, for people to read.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let out = &mut io::stdout() as &mut (dyn Write + Send);
        match self.command {
            Command::Demo(command) => command.run().await?,
            Command::Init(command) => command.run(out).await?,
            Command::Serve(command) => command.run().await?,
            Command::Add(command) => command.run(async |add, on, _| add.run(on, out).await).await?,
            Command::Revoke(command) => command.run(async |revoke, on, _| revoke.run(on, out).await).await?,
            Command::Hold(command) => command.run(async |hold, on, config| hold.run(on, config, out).await).await?,
            Command::Release(command) => command.run(async |release, on, _| release.run(on, out).await).await?,
            Command::Status(command) => command.run(async |status, on, _| status.run(on, out).await).await?,
            Command::Query(command) => return command.run(out).await,
            Command::Crl(command) => return command.run(out).await,
            #[cfg(target_os = "linux")]
            Command::Bench(command) => return command.run(out).await,
            Command::Healthcheck(command) => command.run(out).await?,
            Command::Config(command) => command.run(out).await?,
            Command::Source(command) => return command.run(out).await,
            Command::Import(command) => return command.run(out).await,
            Command::Database(command) => command.run(out).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read_certificate(path: &Path) -> anyhow::Result<Certificate> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("cannot read {}: give the certificate's file, PEM or DER", path.display()))?;
    Certificate::from_file_bytes(&bytes).with_context(|| path.display().to_string())
}

/// `path` as one word of a shell's command line.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_says_of_every_command_what_that_one_does() {
        use clap::CommandFactory;
        let mut seen = std::collections::BTreeSet::new();
        for command in Cli::command().get_subcommands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty(), "{} says nothing", command.get_name());
            assert!(seen.insert(about.clone()), "two commands say {about:?}");
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(example.contains("Example"), "{} shows no example", command.get_name());
        }
    }

    #[test]
    fn words_survive_a_shell() {
        for (path, word) in
            [("/a/b.pem", "/a/b.pem"), ("/a b", "'/a b'"), ("it's", r"'it'\''s'"), ("", "''"), ("$x", "'$x'")]
        {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}
