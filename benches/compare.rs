//! The comparison benches: `cargo bench -p isle-benches -- --runs 11`.

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    isle_benches::main()
}
