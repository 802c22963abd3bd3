//! How a process that serves can fail: one sentence, and an exit code that says whose fault it is.

use std::process::ExitCode;

/// Why it did not start, or did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The command line or the configuration is not right.
    #[error("{0}")]
    Usage(String),
    /// Something it needs is not there, or something went wrong.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// A mistake of whoever started it.
    pub fn usage(sentence: impl ToString) -> Self {
        Self::Usage(sentence.to_string())
    }

    /// Anything else.
    pub fn failed(sentence: impl ToString) -> Self {
        Self::Failed(sentence.to_string())
    }

    /// Says it on standard error.
    pub fn report(&self) -> ExitCode {
        use std::io::Write;
        // With standard error closed there is nobody to tell; the exit code is what remains.
        let _ = writeln!(std::io::stderr(), "error: {self}");
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}

impl From<crate::cli::Failure> for Failure {
    fn from(failure: crate::cli::Failure) -> Self {
        let lines = failure.lines();
        Self::Failed(lines.first().map_or("", |line| line.strip_prefix("error: ").unwrap_or(line)).to_owned())
    }
}
