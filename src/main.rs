//! The `blobdir` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(blobdir::cli::run(std::env::args_os()))
}
