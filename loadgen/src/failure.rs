//! Why a run could not be made, and the exit code that says so. A run that was made and found the broker wanting is no
//! failure of this kind: it has a report.

use std::fmt;

use streambus::{Error, ErrorCode};

/// Why there is no report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    exit_code: u8,
    message: String,
}

impl Failure {
    /// Something went wrong.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { exit_code: 1, message: message.into() }
    }

    /// The flags ask for what cannot be.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit_code: 2, message: message.into() }
    }

    /// Something is there and not as the flags say.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { exit_code: 4, message: message.into() }
    }

    /// Nobody answers.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { exit_code: 5, message: message.into() }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit_code = match &error {
            Error::Connect { .. } | Error::Disconnected { .. } => 5,
            Error::UnknownTopic { .. } => 3,
            Error::Refused { code: ErrorCode::InvalidTopicName | ErrorCode::InvalidPartitions, .. } => 2,
            Error::Refused { .. } => 4,
            Error::InvalidSetting { .. } => 2,
            _ => 1,
        };
        Self { exit_code, message: error.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}
