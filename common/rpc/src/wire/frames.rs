//! Counts the messages in a gRPC body: each is five bytes of header (a flag and a length) and its content.

/// Where in the body we are.
#[derive(Debug, Default)]
pub(crate) struct FrameCounter {
    header: [u8; HEADER],
    header_read: usize,
    content_left: usize,
}

const HEADER: usize = 5;

/// A message longer than allowed, by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong(pub usize);

impl FrameCounter {
    /// How many messages begin in these bytes.
    pub fn advance(&mut self, mut bytes: &[u8], longest: usize) -> Result<u64, TooLong> {
        let mut messages = 0;
        while !bytes.is_empty() {
            if self.content_left > 0 {
                let step = self.content_left.min(bytes.len());
                self.content_left -= step;
                bytes = &bytes[step..];
                continue;
            }
            let step = (HEADER - self.header_read).min(bytes.len());
            self.header[self.header_read..self.header_read + step].copy_from_slice(&bytes[..step]);
            self.header_read += step;
            bytes = &bytes[step..];
            if self.header_read == HEADER {
                let [_, length @ ..] = self.header;
                self.content_left = u32::from_be_bytes(length) as usize;
                self.header_read = 0;
                messages += 1;
                if self.content_left > longest {
                    return Err(TooLong(self.content_left));
                }
            }
        }
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend(vec![7; length]);
        bytes
    }

    #[test]
    fn counts_messages_however_they_are_cut() {
        let body = [message(0), message(3), message(300)].concat();
        for piece in 1..body.len() {
            let mut counter = FrameCounter::default();
            let total: u64 = body.chunks(piece).map(|bytes| counter.advance(bytes, 300).unwrap()).sum();
            assert_eq!(total, 3, "in pieces of {piece}");
        }
    }

    #[test]
    fn stops_at_a_message_that_is_too_long() {
        assert_eq!(FrameCounter::default().advance(&message(301), 300), Err(TooLong(301)));
    }
}
