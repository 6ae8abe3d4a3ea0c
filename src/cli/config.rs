//! `jarchy config`: what the config file comes to, and whether it can be served.

use super::ConfigFile;
use crate::app;
use crate::config::show::show;
use anyhow::Context;
use clap::{Args, Subcommand};
use std::io::Write;

/// Show what the config file comes to, or find out whether it can be served.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jarchy config show --config /etc/jarchy/jarchy.toml")]
pub struct ConfigCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print every setting that holds, and whether it comes from the file, the profile or the defaults
    #[command(after_help = "Example:\n  jarchy config show --config /etc/jarchy/jarchy.toml\n\n\
        What is printed can be used as a config file.")]
    Show {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Find out whether `serve`, or a running service on SIGHUP, would take the config; exit status 0 if so
    #[command(after_help = "Example:\n  jarchy config check --config /etc/jarchy/jarchy.toml\n\n\
        Reads keys, certificates, issuance database and state store, and changes nothing. Whether the ports are free\n\
        is not tried. Certificates that have expired are told, and are no fault: serving goes on for other issuers.")]
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
}

impl ConfigCommand {
    /// Prints to `out`.
    ///
    /// # Errors
    /// If the config file, or what it names, cannot be used.
    pub async fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.action {
            Action::Show { config } => {
                let loaded = config.load()?;
                let text =
                    std::fs::read_to_string(&config.config).with_context(|| config.config.display().to_string())?;
                out.write_all(show(&loaded, &text).as_bytes())?;
            }
            Action::Check { config } => {
                let loaded = config.load()?;
                for warning in app::check(&loaded).await? {
                    writeln!(out, "warning: {warning}")?;
                }
                writeln!(out, "{} can be served", config.config.display())?;
            }
        }
        Ok(())
    }
}
