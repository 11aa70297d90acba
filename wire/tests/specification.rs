//! `PROTOCOL.md` says what the code does: its tables are the code's tables, and its example is made of golden vectors.

mod vectors;

use vectors::{VECTORS, bytes_of};
use wire::{
    Api, ErrorCode,
    api::{Request, hello},
    frame::{Decoded, Frame},
    header::{RequestHeader, ResponseHeader},
    protocol::{self, PREFACE_BYTES},
};

const SPECIFICATION: &str = include_str!("../PROTOCOL.md");

/// The text between a heading and the next one.
fn section(heading: &str) -> &'static str {
    let start = SPECIFICATION.find(heading).unwrap_or_else(|| panic!("no {heading}"));
    let text = &SPECIFICATION[start + heading.len()..];
    &text[..text.find("\n## ").unwrap_or(text.len())]
}

/// The rows of a section's tables whose first cell is a number.
fn numbered_rows(heading: &str) -> Vec<Vec<&'static str>> {
    let rows = section(heading).lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    rows.filter(|cells| cells[0].parse::<u16>().is_ok()).collect()
}

#[test]
fn api_table() {
    let rows = numbered_rows("\n## API table");
    let written: Vec<_> = rows.iter().map(|row| row[..3].join(" ")).collect();
    let expected = Api::ALL.iter().map(|api| {
        let (from, to) = api.versions().into_inner();
        let versions = if from == to { from.to_string() } else { format!("{from} to {to}") };
        format!("{} {} {versions}", api.key(), api.name())
    });
    assert_eq!(written, expected.collect::<Vec<_>>());
}

#[test]
fn every_api_has_a_section_with_both_directions() {
    for api in Api::ALL {
        let text = section(&format!("\n## {}\n", api.name()));
        assert!(text.contains("\nRequest:") && text.contains("\nResponse:"), "{}", api.name());
    }
}

#[test]
fn error_table() {
    let rows = numbered_rows("\n## Error codes");
    let written: Vec<_> = rows.iter().map(|row| row.join(" ")).collect();
    let expected = ErrorCode::ALL.iter().map(|code| {
        let retry = if code.is_retriable() { "yes" } else { "no" };
        format!("{} {} {retry} {}", code.number(), code.name(), code.meaning())
    });
    assert_eq!(written, expected.collect::<Vec<_>>());
}

#[test]
fn every_error_named_exists() {
    let known = |name: &str| ErrorCode::ALL.iter().any(|code| code.name() == name);
    let is_name = |name: &str| {
        name.starts_with(|letter: char| letter.is_ascii_uppercase())
            && name.chars().all(|letter| letter.is_ascii_alphabetic())
            && name.chars().any(|letter| letter.is_ascii_lowercase())
    };
    let quoted = SPECIFICATION.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2));
    let named: Vec<_> = quoted.filter(|name| is_name(name)).collect();
    assert!(named.len() > 30, "{named:?}");
    let unknown: Vec<_> = named.into_iter().filter(|name| !known(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_limit_before_hello() {
    assert_eq!(hello::FRAME_BYTES_MAX_BEFORE, 16_384);
    assert!(section("\n## Limits").contains("| frame before Hello is answered | 16,384 bytes |"));
}

/// The example's steps: who sends, the vector's name, and the text shown.
fn session() -> Vec<(char, &'static str, &'static str)> {
    let mut steps = Vec::new();
    let mut rest = section("\n## A whole session");
    while let Some((before, after)) = rest.split_once("\n```hex\n") {
        let title = before.trim().rsplit('\n').next().unwrap().trim_matches('`');
        let (side, name) = title.split_once(' ').unwrap();
        let (text, after) = after.split_once("```").unwrap();
        steps.push((side.chars().next().unwrap(), name.strip_suffix(".hex").unwrap(), text));
        rest = after;
    }
    steps
}

#[test]
fn the_session_is_made_of_vectors_and_answers_itself() {
    let steps = session();
    assert_eq!(steps.len(), 11);
    let mut asked = None;
    for (side, name, text) in steps {
        let vector = VECTORS.iter().find(|vector| vector.0 == name);
        assert_eq!(vector.map(|vector| vector.1), Some(text), "{name}");
        let bytes = bytes_of(name);
        match side {
            '>' if asked.is_none() && bytes.len() == PREFACE_BYTES => assert_eq!(bytes, protocol::preface()),
            '>' => {
                let frame = Frame::<RequestHeader>::decode(&bytes, 1 << 20);
                let Ok(Decoded::Frame(frame)) = frame else { panic!("{name} is not a request") };
                Request::decode(&frame.header, frame.body).unwrap();
                asked = Some((frame.header.api, frame.header.correlation));
            }
            '<' => {
                let frame = Frame::<ResponseHeader>::decode(&bytes, 1 << 20);
                let Ok(Decoded::Frame(frame)) = frame else { panic!("{name} is not a response") };
                assert_eq!(asked, Some((frame.header.api, frame.header.correlation)), "{name}");
            }
            other => panic!("{name} is sent by {other}"),
        }
    }
}
