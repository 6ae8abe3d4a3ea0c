//! The `jarchy` command: parse the command line, run, say what went wrong.

use clap::Parser;
use jarchy::app::stand_behind;
use jarchy::cli::Cli;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if cli.serves() {
        runtime.on_thread_start(stand_behind());
    }
    let done = runtime
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(cli.run()));
    done.unwrap_or_else(|error| {
        // With nowhere to say it, the exit status must do.
        _ = writeln!(io::stderr(), "jarchy: {}", chain(&error));
        ExitCode::FAILURE
    })
}

/// The error and its causes in one line; a cause that the error has quoted already is not said again.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        said if said.contains(&cause) => said.to_owned(),
        said => format!("{said}: {cause}"),
    })
}
