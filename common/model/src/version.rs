//! Versions of an RPC interface and when two of them go together.

use std::fmt;
use std::str::FromStr;

/// `major.minor`, or `major.minor.revision` where a fix has to be told apart. The major one is the proto package's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Changes when old callers break.
    pub major: u32,
    /// Grows with every addition.
    pub minor: u32,
    /// Grows with every correction; 0 where none is named.
    pub revision: u32,
}

/// Text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version like 1.4 or 1.4.2")]
pub struct BadVersion(String);

impl Version {
    /// The version of an interface in a `v1` package with so many additions.
    #[must_use]
    pub fn v1(minor: u32) -> Self {
        Self { major: 1, minor, revision: 0 }
    }

    /// Whether who implements this version understands a request of another: the same major version, and none
    /// newer. The rule is that of oslo.messaging (`version_is_compatible`).
    #[must_use]
    pub fn understands(self, requested: Self) -> bool {
        let newer_revision = requested.minor == self.minor && requested.revision > self.revision;
        self.major == requested.major && requested.minor <= self.minor && !newer_revision
    }
}

/// The rule with what may be missing: who implements no version in particular understands everything, and who
/// implements one understands no request without a version.
#[must_use]
pub fn compatible(implemented: Option<Version>, requested: Option<Version>) -> bool {
    match (implemented, requested) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(implemented), Some(requested)) => implemented.understands(requested),
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.revision > 0 { write!(f, ".{}", self.revision) } else { Ok(()) }
    }
}

impl FromStr for Version {
    type Err = BadVersion;
    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let number = |part: &str| if part.starts_with('+') { None } else { part.parse().ok() };
        let parts: Option<Vec<u32>> = text.split('.').map(number).collect();
        match parts.as_deref() {
            Some(&[major, minor]) => Ok(Self { major, minor, revision: 0 }),
            Some(&[major, minor, revision]) => Ok(Self { major, minor, revision }),
            _ => Err(BadVersion(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Option<Version> {
        (!text.is_empty()).then(|| text.parse().unwrap())
    }

    #[test]
    fn the_rule_is_oslo_messaging_s() {
        let cases = [
            ("1.23", "1.23", true),
            ("1.24", "1.23", true),
            ("1.22", "1.23", false),
            ("2.23", "1.23", false),
            ("1.23", "2.23", false),
            ("1.23.1", "1.23", true),
            ("1.23.2", "1.23.1", true),
            ("1.23", "1.23.1", false),
            ("1.23.1", "1.23.2", false),
            ("1.24", "1.23.9", true),
            ("1.24", "1.23.1", true),
            ("", "7.5", true),
            ("7.5", "", false),
            ("", "", true),
        ];
        for (implemented, requested, expected) in cases {
            let result = compatible(version(implemented), version(requested));
            assert_eq!(result, expected, "{implemented:?} asked for {requested:?}");
        }
    }

    #[test]
    fn malformed_versions_are_refused() {
        for bad in ["", "5", "5.a", "5.5.a", "1.2.3.4", "-1.2", "1.", ".1", "1.+2", "99999999999.1"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
        assert_eq!("1.4.2".parse::<Version>().unwrap().to_string(), "1.4.2");
        assert_eq!("1.4".parse::<Version>().unwrap().to_string(), "1.4");
    }
}
