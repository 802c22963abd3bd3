//! What is published and in which order it was written; what a subscriber at a place has yet to be told.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use kilonova_model::{Error, Reason};

use super::shape::{Part, Shape};
use super::token::Token;

/// The newest value of every key, and the removals that somebody may not know of.
#[derive(Debug)]
pub(super) struct Log<K> {
    epoch: u64,
    generation: u64,
    /// By key, where its entry is.
    keys: BTreeMap<K, u64>,
    /// By the generation that wrote it. One entry a key: what changed after a generation is a range.
    entries: BTreeMap<u64, Entry<K>>,
    /// Which entries are removals.
    removals: BTreeSet<u64>,
    most_removals: usize,
    /// Removals up to here are forgotten.
    horizon: u64,
}

#[derive(Debug)]
struct Entry<K> {
    key: K,
    /// The message that tells of it. It ends with the token.
    frame: Bytes,
    /// Where in it the encoded value is; none when the key was removed.
    value: Option<Range<usize>>,
}

impl<K> Entry<K> {
    fn value(&self) -> Option<&[u8]> {
        self.value.clone().map(|value| &self.frame[value])
    }
}

/// How far a subscriber has been told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place<K> {
    /// Within the snapshot, which began at a generation.
    Snapshot { after: Option<K>, since: u64 },
    /// Resumed, and not yet where the publication was then.
    Behind { at: u64, until: u64 },
    /// Told of everything up to here.
    At(u64),
}

impl<K> Place<K> {
    fn generation(&self) -> u64 {
        match self {
            Place::Snapshot { since, .. } => *since,
            Place::Behind { at, .. } | Place::At(at) => *at,
        }
    }
}

/// Messages for a subscriber.
#[derive(Debug)]
pub(super) struct Batch {
    pub frames: Bytes,
    /// Changes that newer ones of the same keys made needless.
    pub coalesced: u64,
}

impl Batch {
    fn of(frames: BytesMut) -> Self {
        Self { frames: frames.freeze(), coalesced: 0 }
    }
}

/// The subscriber stands before removals that are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooFarBehind;

impl<K: Clone + Ord> Log<K> {
    pub fn new(epoch: u64, most_removals: usize) -> Self {
        Self {
            epoch,
            generation: 0,
            keys: BTreeMap::new(),
            entries: BTreeMap::new(),
            removals: BTreeSet::new(),
            most_removals,
            horizon: 0,
        }
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn keys(&self) -> usize {
        self.keys.len() - self.removals.len()
    }

    pub fn removals(&self) -> usize {
        self.removals.len()
    }

    /// Takes a key's new value.
    pub fn put(&mut self, shape: &Shape, key: K, value: &[u8]) {
        let token = self.next_token(&key);
        let frame = shape.frame(Part::Update(value), token.text().as_str());
        let begins = shape.update_begins(value.len());
        self.enter(Entry { key, frame, value: Some(begins..begins + value.len()) });
    }

    /// Takes a key away; false if it has no value.
    pub fn remove(&mut self, shape: &Shape, key: &K, id: &str) -> bool {
        let known = self.keys.get(key).and_then(|at| self.entries.get(at));
        if known.is_none_or(|entry| entry.value.is_none()) {
            return false;
        }
        let token = self.next_token(key);
        let frame = shape.frame(Part::Delete(id), token.text().as_str());
        self.removals.insert(token.generation);
        self.enter(Entry { key: key.clone(), frame, value: None });
        while self.removals.len() > self.most_removals
            && let Some(oldest) = self.removals.pop_first()
            && let Some(entry) = self.entries.remove(&oldest)
        {
            self.keys.remove(&entry.key);
            self.horizon = oldest;
        }
        true
    }

    /// Goes on as another incarnation: tokens given so far are worth nothing from now on.
    pub fn renew(&mut self, epoch: u64) {
        self.epoch = epoch;
        for (at, entry) in &mut self.entries {
            let token = Token { epoch, generation: *at }.text();
            let keep = entry.frame.len() - token.as_str().len();
            entry.frame = [&entry.frame[..keep], token.as_str().as_bytes()].concat().into();
        }
    }

    /// Forgets what was known of the key and begins a generation.
    fn next_token(&mut self, key: &K) -> Token {
        if let Some(at) = self.keys.get(key) {
            self.entries.remove(at);
            self.removals.remove(at);
        }
        self.generation += 1;
        self.token(self.generation)
    }

    fn enter(&mut self, entry: Entry<K>) {
        self.keys.insert(entry.key.clone(), self.generation);
        self.entries.insert(self.generation, entry);
    }

    fn token(&self, generation: u64) -> Token {
        Token { epoch: self.epoch, generation }
    }

    /// Where a subscriber with this token begins.
    pub fn place(&self, token: &str) -> Result<Place<K>, Error> {
        if token.is_empty() {
            return Ok(Place::Snapshot { after: None, since: self.generation });
        }
        match Token::parse(token) {
            Some(held)
                if held.epoch == self.epoch
                    && (self.horizon..=self.generation).contains(&held.generation) =>
            {
                Ok(Place::Behind { at: held.generation, until: self.generation })
            }
            _ => {
                let message = "the resume token is not one of this incarnation, or too old; \
                               subscribe again without one";
                Err(Error::new(Reason::ResumeTokenExpired, message).with("epoch", self.epoch))
            }
        }
    }

    /// The token of a place, for a message that changes nothing.
    pub fn token_at(&self, place: &Place<K>) -> Token {
        self.token(place.generation())
    }

    /// Whether more than this many keys changed since.
    pub fn is_behind(&self, place: &Place<K>, more_than: usize) -> bool {
        self.entries.range(place.generation() + 1..).nth(more_than).is_some()
    }

    /// The next messages of a subscriber, about `limit` bytes of them. None if there is nothing new.
    pub fn take(
        &self,
        shape: &Shape,
        place: &mut Place<K>,
        limit: usize,
    ) -> Result<Option<Batch>, TooFarBehind> {
        if let Place::Snapshot { after: None, since } = place {
            *since = self.generation;
        }
        if place.generation() < self.horizon {
            return Err(TooFarBehind);
        }
        Ok(match place {
            Place::Snapshot { after, since } => {
                let (batch, last) = self.snapshot(shape, after.as_ref(), *since, limit);
                *place = match last {
                    Some(key) => Place::Snapshot { after: Some(key), since: *since },
                    None => Place::At(*since),
                };
                Some(batch)
            }
            Place::Behind { at, until } => {
                let (batch, last) = self.missed(shape, *at, *until, limit);
                *place = match last {
                    Some(at) => Place::Behind { at, until: *until },
                    None => Place::At(*until),
                };
                Some(batch)
            }
            Place::At(at) => self.changes(at, limit),
        })
    }

    /// Values by key, and the last key of them if there may be more.
    fn snapshot(&self, shape: &Shape, after: Option<&K>, since: u64, limit: usize) -> (Batch, Option<K>) {
        let mut frames = BytesMut::new();
        for (key, at) in self.keys.range((after.map_or(Unbounded, Excluded), Unbounded)) {
            let Some(value) = self.entries.get(at).and_then(Entry::value) else { continue };
            shape.append(&mut frames, Part::Snapshot(value), "");
            if frames.len() >= limit {
                return (Batch::of(frames), Some(key.clone()));
            }
        }
        shape.append(&mut frames, Part::SnapshotEnd, self.token(since).text().as_str());
        (Batch::of(frames), None)
    }

    /// What changed after one generation and up to another, and the last generation of it if there may be more.
    fn missed(&self, shape: &Shape, after: u64, until: u64, limit: usize) -> (Batch, Option<u64>) {
        let mut frames = BytesMut::new();
        for (at, entry) in self.entries.range(after + 1..).take_while(|(at, _)| **at <= until) {
            match entry.value() {
                Some(value) => {
                    shape.append(&mut frames, Part::Snapshot(value), self.token(*at).text().as_str());
                }
                None => frames.extend_from_slice(&entry.frame),
            }
            if frames.len() >= limit {
                return (Batch::of(frames), Some(*at));
            }
        }
        shape.append(&mut frames, Part::SnapshotEnd, self.token(until).text().as_str());
        (Batch::of(frames), None)
    }

    /// What changed after a generation, which moves on.
    fn changes(&self, at: &mut u64, limit: usize) -> Option<Batch> {
        let from = *at;
        let mut length = 0;
        let fitting = self.entries.range(from + 1..).take_while(|(_, entry)| {
            let fits = length == 0 || length + entry.frame.len() <= limit;
            length += if fits { entry.frame.len() } else { 0 };
            fits
        });
        let (messages, last) = fitting.fold((0_u64, from), |(count, _), (at, _)| (count + 1, *at));
        let frames = match messages {
            0 => return None,
            // Nearly always: the frame that everybody shares.
            1 => self.entries[&last].frame.clone(),
            _ => {
                let mut frames = BytesMut::with_capacity(length);
                for (_, entry) in self.entries.range(from + 1..=last) {
                    frames.extend_from_slice(&entry.frame);
                }
                frames.freeze()
            }
        };
        *at = last;
        Some(Batch { frames, coalesced: last - from - messages })
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
