//! Prefix ranges and page tokens.

use kilonova_model::Revision;

use crate::StoreError;
use crate::txn::{validate_key, validate_prefix};

/// The most items of one page.
pub(crate) const MAX_PAGE: usize = 10_000;

/// The first byte string after all that start with `prefix`; none when there is no end.
pub(crate) fn prefix_end(prefix: &str) -> Option<Vec<u8>> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// What to read for one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageRequest {
    /// The first key that may be on the page.
    pub(crate) start: Vec<u8>,
    /// The first key past it.
    pub(crate) end: Option<Vec<u8>>,
    /// The revision of the listing's first page, when this one follows it.
    pub(crate) revision: Option<Revision>,
    /// The most items.
    pub(crate) limit: usize,
}

impl PageRequest {
    /// From the start of a prefix.
    pub(crate) fn first(prefix: &str, limit: usize) -> Self {
        let start = prefix.as_bytes().to_vec();
        Self { start, end: prefix_end(prefix), revision: None, limit: limit.clamp(1, MAX_PAGE) }
    }

    /// Reads the arguments of a listing. A token is a key, or a key, a space and a revision.
    pub(crate) fn parse(prefix: &str, after: Option<&str>, limit: usize) -> Result<Self, StoreError> {
        validate_prefix(prefix)?;
        let first = Self::first(prefix, limit);
        let Some(token) = after else { return Ok(first) };
        let (key, revision) = split_token(token)?;
        validate_key(key)?;
        let next = [key.as_bytes(), b"\0"].concat();
        Ok(Self { start: next.max(first.start), revision, ..first })
    }
}

fn split_token(token: &str) -> Result<(&str, Option<Revision>), StoreError> {
    let Some((key, revision)) = token.split_once(' ') else { return Ok((token, None)) };
    match revision.parse() {
        Ok(revision) => Ok((key, Some(Revision(revision)))),
        Err(_) => {
            let key = token.chars().take(80).collect();
            Err(StoreError::InvalidKey { key, rule: "a page token is what an earlier page returned" })
        }
    }
}

/// The token of the page after the one that ends with `last`, in a listing read at `revision`.
pub(crate) fn next_token(last: &str, revision: Revision) -> String {
    format!("{last} {revision}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(prefix_end("a/"), Some(b"a0".to_vec()));
        assert_eq!(prefix_end("ÿ"), Some(vec![0xc3, 0xc0]));
        assert_eq!(prefix_end(""), None);
    }

    #[test]
    fn a_token_carries_key_and_revision() {
        let token = next_token("a/b", Revision(9));
        let page = PageRequest::parse("a/", Some(&token), 0).unwrap();
        let expected = PageRequest {
            start: b"a/b\0".to_vec(),
            end: Some(b"a0".to_vec()),
            revision: Some(Revision(9)),
            limit: 1,
        };
        assert_eq!(page, expected);
        assert_eq!(PageRequest::parse("a/", Some("a/b"), 1).unwrap().revision, None);
        assert_eq!(PageRequest::parse("b/", Some("a/b"), 1).unwrap().start, b"b/".to_vec());
        assert!(PageRequest::parse("a/", Some("a/b x"), 1).is_err());
        assert!(PageRequest::parse("a/", Some(""), 1).is_err());
    }
}
