//! Where a subscriber stands, as text for it to keep.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A generation of one incarnation of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub epoch: u64,
    pub generation: u64,
}

/// Sixteen bytes in base64.
const LENGTH: usize = 22;

impl Token {
    /// The opaque text of it.
    pub fn text(self) -> TokenText {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[8..].copy_from_slice(&self.generation.to_be_bytes());
        let mut text = [0; LENGTH];
        URL_SAFE_NO_PAD.encode_slice(bytes, &mut text).expect("16 bytes make 22 letters");
        TokenText(text)
    }

    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (epoch, generation) = bytes.split_at_checked(8)?;
        Some(Self {
            epoch: u64::from_be_bytes(epoch.try_into().ok()?),
            generation: u64::from_be_bytes(generation.try_into().ok()?),
        })
    }
}

/// The text of a token, on the stack.
pub(super) struct TokenText([u8; LENGTH]);

impl TokenText {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base64 is ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back_and_nonsense_does_not() {
        for (epoch, generation) in [(0, 0), (5, 9), (u64::MAX, u64::MAX)] {
            let token = Token { epoch, generation };
            assert_eq!(Token::parse(token.text().as_str()), Some(token));
        }
        for text in ["", "x", "ü", "AAAAAAAAAAAAAAAAAAAAAAAA", "r1f"] {
            assert_eq!(Token::parse(text), None, "{text}");
        }
    }
}
