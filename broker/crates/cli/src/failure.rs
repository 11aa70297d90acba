//! Why a command failed: for people a sentence and the next step, for scripts an exit code.

use std::{io, process::ExitCode};

use config::LoadError;
use serde::Serialize;
use streambus::{Error, ErrorCode};

use crate::output::Format;

/// What kind of failure it is; each has an exit code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub(crate) enum Kind {
    /// Anything else.
    Failed = 1,
    /// The command line or a setting asks for what cannot be.
    Usage = 2,
    /// It does not exist.
    NotFound = 3,
    /// It exists already, is not allowed, or is not empty.
    Refused = 4,
    /// No broker answers, or none that can do it now.
    Unavailable = 5,
}

/// A failed command.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    #[serde(rename = "code")]
    kind: Kind,
    message: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Failure {
    /// `text`: what happened, and after a semicolon what to do next.
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        let text = text.into();
        match text.split_once("; ") {
            Some((message, hint)) => Self { kind, message: message.to_owned(), hint: Some(hint.to_owned()) },
            None => Self { kind, message: text, hint: None },
        }
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::new(Kind::Failed, text)
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Kind::Usage, text)
    }

    /// Tells it on standard error. Whoever closed our output has what they wanted, and is told nothing.
    pub(crate) fn report(self, format: Format) -> ExitCode {
        match (format, &self.hint) {
            (Format::Json, _) => {
                eprintln!("{}", serde_json::to_string(&self).expect("a failure has nothing that JSON lacks"));
            }
            (Format::Text, Some(hint)) => eprintln!("streambus: {}\n  {hint}", self.message),
            (Format::Text, None) => eprintln!("streambus: {}", self.message),
        }
        (self.kind as u8).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Connect { .. } | Error::Disconnected { .. } | Error::DeliveryTimeout { .. } => Kind::Unavailable,
            Error::UnknownTopic { .. } | Error::UnknownPartition { .. } => Kind::NotFound,
            Error::InvalidSetting { .. } | Error::RecordTooLarge { .. } => Kind::Usage,
            Error::Refused { code, .. } => kind_of(*code),
            _ => Kind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<LoadError> for Failure {
    /// Its text is a drawing of lines and carets, which already says what to do.
    fn from(error: LoadError) -> Self {
        let text = error.to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text).to_owned();
        Self { kind: Kind::Usage, message, hint: None }
    }
}

/// Of standard input and output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

fn kind_of(code: ErrorCode) -> Kind {
    match code {
        ErrorCode::UnknownTopic | ErrorCode::UnknownPartition => Kind::NotFound,
        ErrorCode::InvalidTopicName
        | ErrorCode::InvalidConfig
        | ErrorCode::NotCompacted
        | ErrorCode::InvalidPartitions
        | ErrorCode::OffsetOutOfRange
        | ErrorCode::TooLarge => Kind::Usage,
        ErrorCode::TopicExists
        | ErrorCode::NotAuthorized
        | ErrorCode::Unauthenticated
        | ErrorCode::PartitionRefused => Kind::Refused,
        code if code.is_retriable() => Kind::Unavailable,
        _ => Kind::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_stands_apart() {
        let failure = Failure::from(Error::UnknownTopic { topic: "orders".into() });
        assert_eq!(failure.kind, Kind::NotFound);
        assert_eq!(failure.message, "there is no topic \"orders\"");
        assert!(failure.hint.unwrap().contains("streambus topic create orders"));
    }

    #[test]
    fn codes_tell_scripts_what_happened() {
        let check = |code, kind| assert_eq!(kind_of(code), kind, "{code}");
        check(ErrorCode::TopicExists, Kind::Refused);
        check(ErrorCode::Busy, Kind::Unavailable);
        check(ErrorCode::InvalidConfig, Kind::Usage);
        check(ErrorCode::Internal, Kind::Failed);
        assert_eq!(Kind::Unavailable as u8, 5);
    }
}
