//! The figures of `make bench`: every row is a ratio between a real mount and the same HTTP client
//! without FUSE, measured in one run against the built-in emulator.
//!
//! | module | what |
//! |---|---|
//! | `rows`, `read`, `write`, `warm`, `copy` | the rows, and how each is measured |
//! | `bench` | what a row needs: sizes, a server, mounts, pairs of measurements |
//! | `server`, `client`, `daemon` | the emulator's process, the baseline, the mount's process |
//! | `data`, `report` | the bytes of the blobs, and the table |
//!
//! Server, daemon and reader are processes of their own, so that their CPU is told apart. Absolute
//! times say little on a machine that does other things too, so both sides of a ratio are measured
//! in turn, several times, and the median of the ratios counts.
//!
//! ```text
//! figures [--quick] [--row NAME]... [--repeat N] [--options OPTION[=VALUE],...] [--list]
//! ```

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

mod bench;
mod client;
mod copy;
mod daemon;
mod data;
mod read;
mod report;
mod rows;
mod server;
#[path = "../../tests/support/mod.rs"]
mod support;
mod warm;
mod write;

use bench::{Bench, Scale};
use rows::ROWS;

/// What was typed.
#[derive(Default)]
struct Arguments {
    quick: bool,
    list: bool,
    rows: Vec<String>,
    repeat: Option<usize>,
    options: String,
}

fn main() {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(line) => {
            eprintln!("figures: {line}");
            std::process::exit(2);
        }
    };
    if arguments.list {
        for row in ROWS {
            println!("{:<22} {}", row.name, row.what);
        }
        return;
    }
    if let Some(reason) = support::cannot_mount() {
        return support::skip(reason);
    }
    run(&arguments);
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments::default();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            // What cargo adds to every benchmark.
            "--bench" => {}
            "--quick" => parsed.quick = true,
            "--list" => parsed.list = true,
            "--options" => parsed.options = value()?,
            "--repeat" => {
                let count = value()?.parse().ok().filter(|count| *count > 0);
                parsed.repeat = Some(count.ok_or("--repeat needs a number above 0")?);
            }
            "--row" => {
                let name = value()?;
                if !ROWS.iter().any(|row| row.name.contains(&name)) {
                    return Err(format!("there is no row {name:?}; --list shows them"));
                }
                parsed.rows.push(name);
            }
            _ => {
                return Err(format!(
                    "{arg} is not understood; there are --quick, --row NAME, --repeat N, \
                     --options OPTION[=VALUE],... and --list"
                ));
            }
        }
    }
    Ok(parsed)
}

fn run(arguments: &Arguments) {
    let mut scale = if arguments.quick { Scale::QUICK } else { Scale::FULL };
    scale.repeat = arguments.repeat.unwrap_or(scale.repeat);
    let mut bench = Bench::new(scale, &arguments.options);
    let mut reports = Vec::new();
    for row in ROWS {
        let wanted = &arguments.rows;
        if !wanted.is_empty() && !wanted.iter().any(|name| row.name.contains(name.as_str())) {
            continue;
        }
        if bench::interrupted() {
            break;
        }
        eprintln!("{}: {}", row.name, row.what);
        bench.serve(row.profile);
        let report = (row.run)(&bench);
        eprintln!("{}", report::line(row.name, &report));
        reports.push((row.name, report));
    }
    bench.finish();
    print!("{}", report::table(&reports));
}
