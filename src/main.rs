//! The `jarchy` command.
fn main() {}
