//! Where a reader of a watch stands: `r<revision in hex>-<the end of the store's id>`.
//!
//! Revisions of one store say nothing of another, nor of the same one after it was put back to an earlier copy, which gives it
//! another id.

use kilonova_model::{Error, Reason, Revision};

/// How much of the store's id is in a token: its end, which is random.
const OF_THE_ID: usize = 8;

/// The store that tokens are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens(String);

impl Tokens {
    /// Those of the store with that id.
    #[must_use]
    pub fn of(store_id: &str) -> Self {
        Self(store_id.get(store_id.len().saturating_sub(OF_THE_ID)..).unwrap_or_default().to_owned())
    }

    /// The token of a reader that was sent changes up to `last`, of whose revision there may be more.
    pub(super) fn after(&self, last: Revision) -> String {
        format!("r{:x}-{}", last.0.saturating_sub(1), self.0)
    }

    /// The revision in a token.
    pub(super) fn read(&self, token: &str) -> Result<Revision, Error> {
        let expired = |why| Error::new(Reason::ResumeTokenExpired, format!("{why}; watch again without it"));
        let parts = token.strip_prefix('r').and_then(|rest| rest.split_once('-'));
        let parsed = parts.and_then(|(hex, of)| Some((u64::from_str_radix(hex, 16).ok()?, of)));
        match parsed {
            None => Err(expired("this is no token of a watch")),
            Some((_, of)) if of != self.0 => Err(expired("this token is of another store than there is")),
            Some((revision, _)) => Ok(Revision(revision)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back_and_those_of_another_store_do_not() {
        let tokens = Tokens::of("01a2242c-ace4-7199-83e7-6d5e2e6bf612");
        let token = tokens.after(Revision(77));
        assert_eq!((token.as_str(), tokens.read(&token).unwrap()), ("r4c-2e6bf612", Revision(76)));
        let renewed = Tokens::of("01a2242c-ace4-7199-83e7-6d5e2e6bf613");
        for (tokens, token) in
            [(&renewed, token.as_str()), (&tokens, "x"), (&tokens, "r4c"), (&tokens, "rx-2e6bf612")]
        {
            assert_eq!(tokens.read(token).unwrap_err().reason, Reason::ResumeTokenExpired, "{token}");
        }
        assert_eq!(Tokens::of(""), Tokens(String::new()));
    }
}
