//! Questions before something is lost.

use std::io::{self, IsTerminal as _, Write as _};

use crate::failure::{Failure, Kind};
use crate::output::Out;

/// Asks whether to go on; where nobody can answer, `--yes` has to.
pub(crate) fn ask(question: String, out: &Out) -> anyhow::Result<()> {
    if out.json || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::new(Kind::Decision, question).hint("add --yes to do it").into());
    }
    let mut stderr = io::stderr();
    write!(stderr, "{question}. Go on? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Kind::Decision, "nothing was changed").into()),
    }
}
