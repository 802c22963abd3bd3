//! A mark of the store: its number, and what was drawn for it. Numbers grow by one, whatever clocks say; a copy of the store that is put back
//! gives the numbers after it again, with something else drawn.

use std::fmt;
use std::str::FromStr;

/// The number of newer marks up to which one is kept: a day of them.
pub(super) const KEPT: u64 = 24 * 3600 / super::follow::MARK_EVERY.as_secs();

/// One mark. Its text sorts by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// 1 for the first.
    pub(super) number: u64,
    /// A random number.
    pub(super) drawn: u64,
}

impl Mark {
    /// The mark after this one.
    pub(super) fn after(previous: Option<Self>) -> Self {
        let number = previous.map_or(0, |previous| previous.number) + 1;
        Self { number, drawn: rand::random() }
    }

    /// Whether a store whose newest mark is `newest` still keeps this one, if it ever had it; none if it never can have had it.
    pub(super) fn is_kept(self, newest: Option<Self>) -> Option<bool> {
        let newer = newest.map_or(0, |newest| newest.number).checked_sub(self.number)?;
        Some(newer < KEPT)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012}-{:016x}", self.number, self.drawn)
    }
}

/// The text is not that of a mark.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoMark;

impl FromStr for Mark {
    type Err = NoMark;

    fn from_str(text: &str) -> Result<Self, NoMark> {
        let (number, drawn) = text.split_once('-').ok_or(NoMark)?;
        let number = number.parse().map_err(|_| NoMark)?;
        Ok(Self { number, drawn: u64::from_str_radix(drawn, 16).map_err(|_| NoMark)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_sorts_by_its_number() {
        let first = Mark::after(None);
        let tenth = (0..9).fold(first, |mark, _| Mark::after(Some(mark)));
        assert_eq!((first.number, tenth.number), (1, 10));
        for mark in [first, tenth] {
            assert_eq!(mark.to_string().parse(), Ok(mark));
        }
        assert!(first.to_string() < tenth.to_string());
        for bad in ["", "1", "x-1", "1-x"] {
            assert_eq!(bad.parse::<Mark>(), Err(NoMark), "{bad}");
        }
    }

    #[test]
    fn a_mark_is_kept_for_a_day_and_one_after_the_newest_is_of_another_history() {
        let mark = |number| Mark { number, drawn: 7 };
        assert_eq!(mark(5).is_kept(Some(mark(5))), Some(true));
        assert_eq!(mark(5).is_kept(Some(mark(4 + KEPT))), Some(true));
        assert_eq!(mark(5).is_kept(Some(mark(5 + KEPT))), Some(false));
        assert_eq!(mark(6).is_kept(Some(mark(5))), None);
        assert_eq!(mark(1).is_kept(None), None);
    }
}
