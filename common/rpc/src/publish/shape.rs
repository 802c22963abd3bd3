//! Messages put together from parts that are encoded already.
//!
//! Every watch answers with a message of one event and a token. On the wire a message is its fields one after the other,
//! so an event that was encoded once can be followed by any token. Which numbers the fields have is read off the
//! generated code, by encoding a sample of each.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::Event;

/// The flag and the length before each message.
const HEADER: usize = 5;

/// How the messages of one method are put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    snapshot: Bytes,
    update: Bytes,
    delete: Bytes,
    token: Bytes,
    snapshot_end: Bytes,
    heartbeat: Bytes,
}

/// What a message says, its value encoded.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// Part of the snapshot.
    Snapshot(&'a [u8]),
    /// The snapshot is complete.
    SnapshotEnd,
    /// New or changed.
    Update(&'a [u8]),
    /// Gone.
    Delete(&'a str),
    /// Nothing new.
    Heartbeat,
}

impl Shape {
    /// The shape of the messages that `message` makes of an event and a token.
    pub fn of<V: Message + Default, M: Message>(message: impl Fn(Event<V>, String) -> M) -> Self {
        let event = |event| Bytes::from(message(event, String::new()).encode_to_vec());
        let token = message(Event::Heartbeat, "t".to_owned()).encode_to_vec();
        let heartbeat = event(Event::Heartbeat);
        Self {
            snapshot: without(&event(Event::Snapshot(V::default())), &[0]),
            update: without(&event(Event::Update(V::default())), &[0]),
            delete: without(&event(Event::Delete("d".to_owned())), b"\x01d"),
            token: without(&token[heartbeat.len()..], b"\x01t"),
            snapshot_end: event(Event::SnapshotEnd),
            heartbeat,
        }
    }

    /// Appends one message, framed.
    pub fn append(&self, to: &mut BytesMut, part: Part<'_>, token: &str) {
        let (tag, value) = self.parts(part);
        let length =
            field_length(tag, value) + field_length(token_tag(&self.token, token), Some(token.as_bytes()));
        to.reserve(HEADER + length);
        to.put_u8(0);
        to.put_u32(length as u32);
        append_field(to, tag, value);
        append_field(to, token_tag(&self.token, token), Some(token.as_bytes()));
    }

    /// One message, framed.
    #[must_use]
    pub fn frame(&self, part: Part<'_>, token: &str) -> Bytes {
        let mut frame = BytesMut::new();
        self.append(&mut frame, part, token);
        frame.freeze()
    }

    /// Where in the frame of an update its value begins.
    pub(super) fn update_begins(&self, length: usize) -> usize {
        HEADER + self.update.len() + encoded_len_varint(length as u64)
    }

    /// A field's tag and value, or a field that is whole.
    fn parts<'a>(&'a self, part: Part<'a>) -> (&'a [u8], Option<&'a [u8]>) {
        match part {
            Part::Snapshot(value) => (&self.snapshot, Some(value)),
            Part::Update(value) => (&self.update, Some(value)),
            Part::Delete(id) => (&self.delete, Some(id.as_bytes())),
            Part::SnapshotEnd => (&self.snapshot_end, None),
            Part::Heartbeat => (&self.heartbeat, None),
        }
    }
}

fn without(sample: &[u8], end: &[u8]) -> Bytes {
    // A message that cannot say this is empty, and stays so.
    Bytes::copy_from_slice(sample.strip_suffix(end).unwrap_or_default())
}

/// An empty token is not written, as any field of its default.
fn token_tag<'a>(tag: &'a [u8], token: &str) -> &'a [u8] {
    if token.is_empty() { &[] } else { tag }
}

fn field_length(tag: &[u8], value: Option<&[u8]>) -> usize {
    match value {
        Some(_) if tag.is_empty() => 0,
        Some(value) => tag.len() + encoded_len_varint(value.len() as u64) + value.len(),
        None => tag.len(),
    }
}

fn append_field(to: &mut BytesMut, tag: &[u8], value: Option<&[u8]>) {
    to.put_slice(tag);
    if let Some(value) = value
        && !tag.is_empty()
    {
        encode_varint(value.len() as u64, to);
        to.put_slice(value);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use kilonova_proto::conductor::v1::watch_instances_response::Event as Out;
    use kilonova_proto::conductor::v1::{Heartbeat, SnapshotEnd, WatchInstancesResponse};
    use kilonova_proto::types::v1::Instance;

    use super::*;

    /// Messages with every kind of event.
    pub fn message(event: Event<Instance>, resume_token: String) -> WatchInstancesResponse {
        let event = Some(match event {
            Event::Snapshot(instance) => Out::Snapshot(instance),
            Event::SnapshotEnd => Out::SnapshotEnd(SnapshotEnd {}),
            Event::Update(instance) => Out::Update(instance),
            Event::Delete(id) => Out::Delete(id),
            Event::Heartbeat => Out::Heartbeat(Heartbeat {}),
        });
        WatchInstancesResponse { event, resume_token }
    }

    /// The messages in these frames.
    pub fn messages(mut frames: &[u8]) -> Vec<WatchInstancesResponse> {
        let mut messages = Vec::new();
        while let Some((header, rest)) = frames.split_at_checked(HEADER) {
            assert_eq!(header[0], 0, "nothing is compressed");
            let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
            messages.push(Message::decode(&rest[..length]).unwrap());
            frames = &rest[length..];
        }
        assert!(frames.is_empty());
        messages
    }

    #[test]
    fn what_is_put_together_reads_as_the_generated_message() {
        let shape = Shape::of(message);
        for id in [String::new(), "i".to_owned(), "i".repeat(127), "i".repeat(70_000)] {
            let instance = Instance { id, ..Default::default() };
            let value = instance.encode_to_vec();
            let cases = [
                (Part::Snapshot(&value), Event::Snapshot(instance.clone())),
                (Part::Update(&value), Event::Update(instance.clone())),
                (Part::Delete("id"), Event::Delete("id".to_owned())),
                (Part::SnapshotEnd, Event::SnapshotEnd),
                (Part::Heartbeat, Event::Heartbeat),
            ];
            let mut frames = BytesMut::new();
            let mut expected = Vec::new();
            for (part, event) in cases {
                for token in ["", "token"] {
                    shape.append(&mut frames, part, token);
                    expected.push(message(event.clone(), token.to_owned()));
                }
            }
            assert_eq!(messages(&frames), expected);
        }
    }

    #[test]
    fn the_value_lies_in_the_frame_where_it_is_said_to_begin() {
        let shape = Shape::of(message);
        for length in [0, 1, 127, 128, 20_000] {
            let value = vec![7; length];
            let frame = shape.frame(Part::Update(&value), "t");
            let begins = shape.update_begins(length);
            assert_eq!(frame[begins..begins + length], value);
        }
    }

    #[test]
    fn what_a_service_cannot_say_is_a_message_of_a_token_alone() {
        let shape = Shape::of(|event: Event<Instance>, token| match event {
            Event::Delete(_) => WatchInstancesResponse { event: None, resume_token: token },
            event => message(event, token),
        });
        let frame = shape.frame(Part::Delete("x"), "t");
        assert_eq!(messages(&frame), [WatchInstancesResponse { event: None, resume_token: "t".into() }]);
    }
}
