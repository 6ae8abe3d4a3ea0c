//! `jarchy config`: what the config file comes to.

use super::ConfigFile;
use crate::config::show::show;
use anyhow::Context;
use clap::{Args, Subcommand};
use std::io::Write;

/// Show what the config file comes to.
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
}

impl ConfigCommand {
    /// Prints to `out`.
    ///
    /// # Errors
    /// If the config file cannot be used.
    pub fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let Action::Show { config } = self.action;
        let loaded = config.load()?;
        let text = std::fs::read_to_string(&config.config).with_context(|| config.config.display().to_string())?;
        Ok(out.write_all(show(&loaded, &text).as_bytes())?)
    }
}
