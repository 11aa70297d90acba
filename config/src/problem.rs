//! What can be wrong with settings, and how it is told: with file, line and caret where there is one, with the value
//! and its origin where there is none, and with the next step.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use thiserror::Error;

use crate::{file::Place, source::Source};

/// The settings are refused; all that is wrong with them, in one go.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", .problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n\n"))]
pub struct LoadError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The file is not TOML.
    Syntax {
        /// What the parser expected.
        message: String,
        /// Where.
        place: Place,
    },
    /// There is no such setting.
    Unknown {
        /// The name, as it was written.
        name: String,
        /// The name it may have meant, written alike.
        nearest: Option<String>,
        /// Where, if in the file.
        place: Option<Place>,
    },
    /// A value is not one of its setting's.
    Value {
        /// The setting.
        name: &'static str,
        /// The value, as it was written.
        text: String,
        /// Who wrote it.
        source: Source,
        /// Why not: the end of a sentence that begins with the value.
        reason: String,
    },
    /// Two values that are fine alone do not go together.
    Disagreement {
        /// The first setting, with its value and source.
        first: Party,
        /// The second.
        second: Party,
        /// Why not.
        reason: String,
        /// What to change.
        advice: String,
    },
}

/// A setting in a disagreement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The setting.
    pub name: &'static str,
    /// Its value, as it was written.
    pub text: String,
    /// Who wrote it.
    pub source: Source,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let diagnostic = match self {
            Self::Syntax { message, place } => diagnostic(message.clone(), vec![(place, "")], None),
            Self::Unknown { name, nearest, place } => {
                let help = nearest.as_ref().map(|nearest| format!("did you mean `{nearest}`?"));
                let places = place.iter().map(|place| (place, "")).collect();
                diagnostic(format!("there is no setting `{name}`"), places, help)
            }
            Self::Value { name, text, source, reason } => match source {
                Source::File(place) => diagnostic(format!("`{name}`: {text:?} {reason}"), vec![(place, "")], None),
                source => diagnostic(format!("`{name}`: {text:?}, from {source}, {reason}"), vec![], None),
            },
            Self::Disagreement { first, second, reason, advice } => {
                let title = format!("{first} and {second} do not go together: {reason}");
                let places = [first, second].into_iter().filter_map(|party| match &party.source {
                    Source::File(place) => Some((place, party.name)),
                    _ => None,
                });
                diagnostic(title, places.collect(), Some(advice.clone()))
            }
        };
        out.write_str(&diagnostic)
    }
}

impl fmt::Display for Party {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{} = {}` ({})", self.name, self.text, self.source)
    }
}

/// Draws an error in plain text: title, the lines it concerns with carets and labels, advice.
fn diagnostic(title: String, places: Vec<(&Place, &'static str)>, help: Option<String>) -> String {
    let mut group = Group::with_title(Level::ERROR.primary_title(title));
    for (place, label) in places {
        let annotation = AnnotationKind::Primary.span(place.columns.clone());
        let annotation = if label.is_empty() { annotation } else { annotation.label(label) };
        group =
            group.element(Snippet::source(&place.text).path(&place.path).line_start(place.line).annotation(annotation));
    }
    if let Some(help) = help {
        group = group.element(Level::HELP.message(help));
    }
    Renderer::plain().render(&[group])
}
