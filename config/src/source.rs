//! Where values come from, and who wins.

use std::{collections::BTreeMap, fmt};

use crate::{
    file::Place,
    kind::Value,
    problem::Problem,
    property::{PROPERTIES, Property, VARIABLE_PREFIX, nearest},
};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// A line of the file.
    File(Place),
    /// The variable of this name.
    Environment(String),
    /// The flag of this name, with its dashes.
    Flag(String),
}

/// A setting's value and its origin.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The value.
    pub value: Value,
    /// The value as it was written.
    pub text: String,
    /// Who wrote it.
    pub source: Source,
}

/// What one source says: the text for each setting it names.
pub(crate) type Layer = BTreeMap<&'static str, (String, Source)>;

/// The one place that decides who wins: flag over environment over file over default.
pub(crate) fn resolve(
    file: &Layer,
    environment: &Layer,
    flags: &Layer,
    problems: &mut Vec<Problem>,
) -> BTreeMap<&'static str, Setting> {
    let mut settings = BTreeMap::new();
    for property in PROPERTIES {
        let said = [flags, environment, file].into_iter().find_map(|layer| layer.get(property.name));
        let (text, source) = said.cloned().unwrap_or_else(|| (property.default.to_owned(), Source::Default));
        match property.kind.parse(&text) {
            Ok(value) => drop(settings.insert(property.name, Setting { value, text, source })),
            Err(reason) => problems.push(Problem::Value { name: property.name, text, source, reason }),
        }
    }
    settings
}

/// Picks our variables. A foreign one may well share the prefix (orchestrators make such for a service of our name),
/// so an unknown one is a problem only if it looks like a slip.
pub(crate) fn environment_layer<'a>(
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    problems: &mut Vec<Problem>,
) -> Layer {
    let mut layer = Layer::new();
    for (variable, text) in variables {
        let Some(rest) = variable.strip_prefix(VARIABLE_PREFIX) else { continue };
        let source = Source::Environment(variable.to_owned());
        match PROPERTIES.iter().find(|property| property.variable() == variable) {
            Some(property) => drop(layer.insert(property.name, (text.to_owned(), source))),
            None => {
                if let Some(near) = nearest(&rest.to_lowercase()).and_then(Property::find) {
                    problems.push(Problem::Unknown {
                        name: variable.to_owned(),
                        nearest: Some(near.variable()),
                        place: None,
                    });
                }
            }
        }
    }
    layer
}

/// Takes flags by the dotted names of their settings.
pub(crate) fn flag_layer<'a>(
    flags: impl IntoIterator<Item = (&'a str, &'a str)>,
    problems: &mut Vec<Problem>,
) -> Layer {
    let mut layer = Layer::new();
    for (name, text) in flags {
        match Property::find(name) {
            Some(property) => drop(layer.insert(property.name, (text.to_owned(), Source::Flag(property.flag())))),
            None => {
                let nearest = nearest(name).map(str::to_owned);
                problems.push(Problem::Unknown { name: name.to_owned(), nearest, place: None });
            }
        }
    }
    layer
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(out, "default"),
            Self::File(place) => write!(out, "{place}"),
            Self::Environment(name) | Self::Flag(name) => write!(out, "{name}"),
        }
    }
}
