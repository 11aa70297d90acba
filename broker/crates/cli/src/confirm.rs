//! Asks a person before something is destroyed.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::failure::Failure;

/// Asks. Where there is nobody, `--yes` has to say it.
pub(crate) fn confirm(question: &str, otherwise: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("nobody is there to confirm; add --yes, or look first with --dry-run"));
    }
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::failed(otherwise)) }
}
