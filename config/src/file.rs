//! The TOML file: which settings it names, and where in it, so that a complaint can point there.

use std::{fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    kind::Kind,
    problem::Problem,
    property::{PROPERTIES, Property, nearest},
    source::{Layer, Source},
};

/// A stretch of one line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as the person who started us named it.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// The text of the line.
    pub text: String,
    /// The bytes of `text` that are meant; at least one, unless the line is empty.
    pub columns: Range<usize>,
}

/// What the file says of each setting.
pub(crate) fn file_layer(path: &str, text: &str, problems: &mut Vec<Problem>) -> Layer {
    let mut file = Reading { path, text, layer: Layer::new(), problems };
    match DeTable::parse(text) {
        Ok(table) => file.read_table("", table.get_ref()),
        Err(error) => {
            let place = file.place(error.span().unwrap_or_default());
            file.problems.push(Problem::Syntax { message: error.message().to_owned(), place });
        }
    }
    file.layer
}

struct Reading<'a> {
    path: &'a str,
    text: &'a str,
    layer: Layer,
    problems: &'a mut Vec<Problem>,
}

impl Reading<'_> {
    /// Reads the section of that name; the whole file is the section "".
    fn read_table(&mut self, section: &str, table: &DeTable<'_>) {
        // The table is sorted by name; complaints should come in the order of the lines.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name =
                if section.is_empty() { key.get_ref().to_string() } else { format!("{section}.{}", key.get_ref()) };
            let is_section =
                PROPERTIES.iter().any(|known| known.name.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.')));
            match (Property::find(&name), value.get_ref()) {
                (Some(property), _) => self.read_value(property, value),
                (None, DeValue::Table(table)) if is_section => self.read_table(&name, table),
                (None, _) => {
                    let place = Some(self.place(key.span()));
                    let nearest = nearest(&name).map(str::to_owned);
                    self.problems.push(Problem::Unknown { name, nearest, place });
                }
            }
        }
    }

    fn read_value(&mut self, property: &'static Property, value: &Spanned<DeValue<'_>>) {
        let source = Source::File(self.place(value.span()));
        match text_of(property.kind, value.get_ref()) {
            Some(text) => drop(self.layer.insert(property.name, (text, source))),
            None => {
                let text = self.text.get(value.span()).unwrap_or_default().to_owned();
                let reason = format!("is not {}", property.kind.range());
                self.problems.push(Problem::Value { name: property.name, text, source, reason });
            }
        }
    }

    /// The first line of a stretch of the file. An empty stretch stands for the character behind it.
    fn place(&self, span: Range<usize>) -> Place {
        let start = self.text.floor_char_boundary(span.start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |length| start + length);
        let text = self.text[line_start..line_end].trim_end();
        let from = (start - line_start).min(text.len());
        let character = text[from..].chars().next().map_or(0, char::len_utf8);
        let to = text.floor_char_boundary(span.end.saturating_sub(line_start)).max(from + character);
        let line = self.text[..line_start].matches('\n').count() + 1;
        Place { path: self.path.to_owned(), line, text: text.to_owned(), columns: from..to }
    }
}

/// The value as an environment variable would have it, if one of this kind could be written so.
fn text_of(kind: Kind, value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(i64::from_str_radix(number.as_str(), number.radix()).ok()?.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Array(items) if kind == Kind::Cores => {
            let items: Option<Vec<_>> = items.iter().map(|item| text_of(kind, item.get_ref())).collect();
            Some(items?.join(","))
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.path, self.line)
    }
}
