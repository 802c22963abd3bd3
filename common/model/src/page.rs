//! Pages of a list: how many, and where the next one starts.

use crate::error::{Error, FieldViolation, Reason};

/// What a page holds when the request does not say.
pub const DEFAULT_PAGE: usize = 100;
/// What a page holds at most.
pub const MAX_PAGE: usize = 1000;

/// What a page holds at most, in encoded bytes: a receiver takes 4 MiB.
pub const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Reads `page_size`: 0 is the default, too much is cut, less than 0 is refused.
pub fn page_size(requested: i32) -> Result<usize, Error> {
    match usize::try_from(requested) {
        Ok(0) => Ok(DEFAULT_PAGE),
        Ok(size) => Ok(size.min(MAX_PAGE)),
        Err(_) => Err(Error::invalid(vec![FieldViolation {
            field: "page_size".to_owned(),
            description: format!("0 to {MAX_PAGE}"),
        }])),
    }
}

/// Makes the token of the page after `last`, good only for lists with the same `filter`.
#[must_use]
pub fn encode_token(filter: &str, last: &str) -> String {
    format!("{:016x}{last}", fingerprint(filter))
}

/// Reads a page token back: the last key of the page before, or `None` on the first page.
pub fn decode_token(filter: &str, token: &str) -> Result<Option<String>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    match token.split_at_checked(16) {
        Some((hash, last)) if !last.is_empty() && hash == format!("{:016x}", fingerprint(filter)) => {
            Ok(Some(last.to_owned()))
        }
        _ => Err(Error::new(
            Reason::PageTokenInvalid,
            "page_token was not given out by this list, or the filter changed between pages",
        )),
    }
}

/// FNV-1a: equal on every member and in every version, which the standard hasher does not promise.
#[must_use]
pub fn fingerprint(content: impl AsRef<[u8]>) -> u64 {
    content.as_ref().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_only_with_its_filter() {
        let token = encode_token("project=a", "key");
        assert_eq!(decode_token("project=a", &token), Ok(Some("key".to_owned())));
        assert_eq!(decode_token("project=b", &token).unwrap_err().reason, Reason::PageTokenInvalid);
        assert_eq!(decode_token("project=a", ""), Ok(None));
        for bad in ["x", "0123456789abcdef", "ünïcödé-töken-ünï"] {
            assert!(decode_token("project=a", bad).is_err());
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(page_size(0), Ok(100));
        assert_eq!(page_size(5000), Ok(1000));
        assert!(page_size(-1).is_err());
    }
}
