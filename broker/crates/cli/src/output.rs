//! How results are printed: as text for people, or as JSON, one object or list a line.

use std::io::{self, ErrorKind, Write};

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde::Serialize;

use crate::failure::Failure;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The flag that says how to print.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Output {
    /// How to print results and errors
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

impl Output {
    /// Prints a result: `text` for people, `json` for programs.
    pub(crate) fn print(self, text: impl FnOnce() -> String, json: &impl Serialize) -> Result<(), Failure> {
        match self.format {
            Format::Text => write_line(text().trim_end()),
            Format::Json => write_line(&to_json(json)),
        }
    }
}

/// A value as one line of JSON.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("results have nothing that JSON lacks")
}

/// Prints a line. Who closed our output has read enough: then the process ends, and all is well.
pub(crate) fn write_line(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    written(writeln!(out, "{line}").and_then(|()| out.flush()))
}

/// What became of writing to standard output.
pub(crate) fn written(done: io::Result<()>) -> Result<(), Failure> {
    match done {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        done => Ok(done?),
    }
}

/// A table without lines: its first columns are text, the last `numbers` of them are numbers.
pub(crate) fn table(head: &[&str], numbers: usize, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(head.to_vec()).add_rows(rows);
    let texts = head.len() - numbers;
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 0));
        if index >= texts {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right() {
        let rows = [["orders", "4"], ["a", "16"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table(&["NAME", "PARTITIONS"], 1, rows),
            "NAME    PARTITIONS\norders           4\na               16\n"
        );
    }
}
