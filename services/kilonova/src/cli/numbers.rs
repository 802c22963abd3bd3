//! Numbers on the command line.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Reads a whole number.
pub fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a whole number".to_owned())
}

/// Reads a whole number of a range.
pub fn within<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display + Clone,
{
    move |text| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from {} to {}", range.start(), range.end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_told_what_is() {
        assert_eq!(whole::<u32>("7"), Ok(7));
        for bad in ["-1", "x", "", "1.5"] {
            assert_eq!(whole::<u32>(bad), Err("expected a whole number".to_owned()));
        }
        let count = within(1_u32..=100);
        assert_eq!(count("100"), Ok(100));
        for bad in ["0", "101", "-1", "x"] {
            assert_eq!(count(bad), Err("expected a whole number from 1 to 100".to_owned()));
        }
    }
}
