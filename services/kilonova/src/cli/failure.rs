//! How a command can fail: what it says, and the exit code scripts see.

use std::io::Write;
use std::process::ExitCode;

use kilonova_model::{Error, Reason};
use kilonova_rpc::status::from_status;
use tonic::{Code, Status};

use super::format::safe;

/// The exit codes, as `--help` shows them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the request was refused, or failed
  2  the command line is not right
  3  what was named does not exist
  4  the resource waited for ended in ERROR; a dry run found no place; an audit left drift
  5  the time was over
  6  the api cannot be reached";

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The command line is not right.
    Usage(String),
    /// The api did not answer at all.
    Unreachable {
        /// Where it was looked for.
        endpoint: String,
        /// What happened.
        cause: String,
        /// The id to repeat the request with, when it may have been executed.
        request_id: Option<String>,
    },
    /// The api answered with an error.
    Answered {
        /// Its answer.
        status: Box<Status>,
        /// The id to repeat the request with, when it may have been executed.
        request_id: Option<String>,
    },
    /// Nothing has the name given.
    NotFound(Error),
    /// What was waited for ended otherwise.
    Ended(String),
    /// The time was over.
    TimedOut(String),
    /// Nobody reads the output any more.
    OutputClosed,
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Ended(_) => 4,
            Self::TimedOut(_) => 5,
            Self::Unreachable { .. } => 6,
            Self::Answered { status, .. } => match status.code() {
                Code::NotFound => 3,
                Code::DeadlineExceeded => 5,
                _ => 1,
            },
        }
    }

    /// Whether what was named does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound(_) => true,
            Self::Answered { status, .. } => status.code() == Code::NotFound,
            _ => false,
        }
    }

    /// What to print: the error in one line, then wrong fields, then what to do.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.raw_lines().iter().map(|line| safe(line).into_owned()).collect()
    }

    fn raw_lines(&self) -> Vec<String> {
        match self {
            Self::OutputClosed => Vec::new(),
            Self::Usage(message) => vec![format!("error: {message}")],
            Self::NotFound(error) => with_advice(error),
            Self::Ended(message) => vec![format!("error: {message}")],
            Self::TimedOut(message) => {
                vec![
                    format!("error: TIMED_OUT: {message}"),
                    "hint: give it more time with --timeout".to_owned(),
                ]
            }
            Self::Unreachable { endpoint, cause, request_id } => {
                let mut lines =
                    vec![format!("error: UNREACHABLE: no answer from the api at {endpoint}: {cause}")];
                lines.push(match request_id {
                    Some(id) => repeat_hint(id),
                    None => "hint: start it with `kilonova up`, or name another with --endpoint".to_owned(),
                });
                lines
            }
            Self::Answered { status, request_id } => answered(status, request_id.as_deref()),
        }
    }
}

fn answered(status: &Status, request_id: Option<&str>) -> Vec<String> {
    let mut lines = match from_status(status) {
        Some(error) => with_advice(&error),
        None => vec![format!("error: {}: {}", code_name(status.code()), status.message())],
    };
    if let Some(id) = request_id
        && matches!(status.code(), Code::Unknown | Code::DeadlineExceeded | Code::Internal)
    {
        lines.push(repeat_hint(id));
    }
    lines
}

fn repeat_hint(request_id: &str) -> String {
    format!("hint: repeat it with --request-id {request_id}: it will not be done twice")
}

fn with_advice(error: &Error) -> Vec<String> {
    let mut lines = vec![format!("error: {}: {}", error.reason, error.message)];
    // The message names the only wrong field, or the first of several.
    if error.violations.len() > 1 {
        lines
            .extend(error.violations.iter().map(|wrong| format!("  {}: {}", wrong.field, wrong.description)));
    }
    lines.push(format!("hint: {}", error.reason.advice()));
    lines
}

/// A gRPC code as other languages write it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Nothing of this kind has that name.
#[must_use]
pub fn not_found(reason: Reason, message: String) -> Failure {
    Failure::NotFound(Error::new(reason, message))
}

/// Prints a failure to stderr.
pub fn report(failure: &Failure) -> ExitCode {
    let mut stderr = std::io::stderr().lock();
    for line in failure.lines() {
        if writeln!(stderr, "{line}").is_err() {
            break;
        }
    }
    ExitCode::from(failure.exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_model::FieldViolation;
    use kilonova_rpc::status::to_status;

    fn from_api(error: &Error) -> Failure {
        Failure::Answered { status: Box::new(to_status(error)), request_id: None }
    }

    #[test]
    fn a_refusal_names_reason_fields_and_advice() {
        let wrong = |field: &str| FieldViolation { field: field.into(), description: "is required".into() };
        let failure = from_api(&Error::invalid(vec![wrong("name"), wrong("image_id")]));
        assert_eq!(failure.exit_code(), 1);
        assert_eq!(
            failure.lines(),
            [
                "error: VALIDATION_FAILED: name: is required (and 1 more)",
                "  name: is required",
                "  image_id: is required",
                "hint: mend the fields named and send it again",
            ]
        );
        let failure = from_api(&Error::invalid(vec![wrong("name")]));
        assert_eq!(failure.lines()[0], "error: VALIDATION_FAILED: name: is required");
        assert_eq!(failure.lines().len(), 2);
    }

    #[test]
    fn exit_codes_are_those_of_the_help() {
        let unreachable =
            Failure::Unreachable { endpoint: "http://x".into(), cause: "refused".into(), request_id: None };
        let table = [
            (from_api(&Error::new(Reason::QuotaExceeded, "x")), 1),
            (from_api(&Error::new(Reason::NoEndpoint, "x")), 1),
            (Failure::Usage("x".into()), 2),
            (from_api(&Error::new(Reason::InstanceNotFound, "x")), 3),
            (not_found(Reason::VolumeNotFound, "x".into()), 3),
            (Failure::Ended("x".into()), 4),
            (from_api(&Error::new(Reason::DeadlineExceeded, "x")), 5),
            (Failure::TimedOut("x".into()), 5),
            (unreachable, 6),
            (Failure::OutputClosed, 0),
        ];
        for (failure, code) in table {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
            assert!(EXIT_CODES.contains(&format!("\n  {code}  ")));
        }
    }

    #[test]
    fn what_may_have_happened_is_repeated_with_its_id() {
        let status = Box::new(to_status(&Error::new(Reason::StoreOutcomeUnknown, "x")));
        let failure = Failure::Answered { status, request_id: Some("r-1".into()) };
        assert!(failure.lines().last().unwrap().contains("--request-id r-1"));
    }

    #[test]
    fn a_stranger_s_status_shows_its_code() {
        let failure =
            Failure::Answered { status: Box::new(Status::permission_denied("go away")), request_id: None };
        assert_eq!(failure.lines(), ["error: PERMISSION_DENIED: go away"]);
    }
}
