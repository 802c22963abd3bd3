use std::collections::{BTreeMap, HashMap};

use kilonova_proto::conductor::v1::watch_instances_response::Event as Out;
use kilonova_proto::types::v1::Instance;
use proptest::prelude::*;
use prost::Message as _;

use super::super::shape::tests::{message, messages};
use super::*;

/// A few messages: what a reader gets takes several reads.
const PIECE: usize = 50;

/// A log, and what it should hold.
struct Model {
    shape: Shape,
    log: Log<u8>,
    values: BTreeMap<u8, u64>,
    changes: u64,
}

impl Model {
    fn new(most_removals: usize) -> Self {
        Self {
            shape: Shape::of(message),
            log: Log::new(7, most_removals),
            values: BTreeMap::new(),
            changes: 0,
        }
    }

    fn put(&mut self, key: u8) {
        self.changes += 1;
        // The generation as the value's own, to be found again by who reads it.
        let value = Instance { id: key.to_string(), generation: self.changes, ..Default::default() };
        self.log.put(&self.shape, key, &value.encode_to_vec());
        self.values.insert(key, self.changes);
    }

    fn remove(&mut self, key: u8) {
        let removed = self.values.remove(&key).is_some();
        assert_eq!(self.log.remove(&self.shape, &key, &key.to_string()), removed);
        self.changes += u64::from(removed);
    }

    fn reader(&self, token: &str) -> Result<Reader, Error> {
        let place = self.log.place(token)?;
        Ok(Reader { place, seen: HashMap::new(), view: BTreeMap::new(), token: String::new(), whole: false })
    }

    fn resumed(&self, reader: &Reader) -> Result<Reader, Error> {
        let Reader { view, token, .. } = reader;
        Ok(Reader { view: view.clone(), token: token.clone(), ..self.reader(token)? })
    }
}

/// A subscriber, and what it has made of what it was sent.
#[derive(Debug)]
struct Reader {
    place: Place<u8>,
    seen: HashMap<u8, ()>,
    view: BTreeMap<u8, u64>,
    token: String,
    whole: bool,
}

impl Reader {
    /// Reads one piece; how many messages it had, or none if nothing is new.
    fn read(&mut self, model: &Model) -> Result<Option<usize>, TooFarBehind> {
        let resumed = matches!(self.place, Place::Behind { .. });
        let Some(batch) = model.log.take(&model.shape, &mut self.place, PIECE)? else { return Ok(None) };
        let told = messages(&batch.frames);
        let count = told.len();
        for message in told {
            match message.event.unwrap() {
                Out::Snapshot(instance) => {
                    assert!(!self.whole, "a snapshot after its end");
                    assert_eq!(message.resume_token.is_empty(), !resumed);
                    self.enter(&instance);
                }
                Out::SnapshotEnd(_) => {
                    assert!(!std::mem::replace(&mut self.whole, true), "two ends");
                    if !resumed {
                        self.view.retain(|key, _| self.seen.contains_key(key));
                    }
                }
                Out::Update(instance) => {
                    assert!(self.whole);
                    self.enter(&instance);
                }
                Out::Delete(id) => {
                    self.view.remove(&id.parse().unwrap());
                }
                Out::Heartbeat(_) => panic!("nobody asked for one"),
            }
            if !message.resume_token.is_empty() {
                let at = Token::parse(&message.resume_token).unwrap().generation;
                let before = Token::parse(&self.token).map_or(0, |token| token.generation);
                assert!(at >= before, "the token goes back from {before} to {at}");
                self.token = message.resume_token;
            }
        }
        Ok(Some(count))
    }

    fn enter(&mut self, instance: &Instance) {
        let key = instance.id.parse().unwrap();
        self.seen.insert(key, ());
        let before = self.view.insert(key, instance.generation);
        assert!(before.is_none_or(|before| before <= instance.generation), "a value goes back");
    }

    fn read_all(&mut self, model: &Model) -> Result<usize, TooFarBehind> {
        let mut messages = 0;
        while let Some(some) = self.read(model)? {
            messages += some;
        }
        Ok(messages)
    }
}

#[test]
fn a_late_reader_gets_the_newest_of_each_key_once() {
    let mut model = Model::new(10);
    let mut reader = model.reader("").unwrap();
    assert_eq!(reader.read_all(&model), Ok(1), "only the end of an empty snapshot");
    for _ in 0..1_000 {
        (1..=5).for_each(|key| model.put(key));
    }
    let mut place = reader.place.clone();
    let batch = model.log.take(&model.shape, &mut place, 1 << 20).unwrap().unwrap();
    assert_eq!((messages(&batch.frames).len(), batch.coalesced), (5, 4_995));
    assert_eq!(reader.read_all(&model), Ok(5));
    assert_eq!(reader.view, model.values);
    assert_eq!(reader.read(&model), Ok(None));
}

#[test]
fn all_who_get_one_change_share_its_frame() {
    let mut model = Model::new(10);
    model.put(1);
    let mut readers = [(); 2].map(|()| model.reader("").unwrap());
    for reader in &mut readers {
        reader.read_all(&model).unwrap();
    }
    model.put(2);
    let taken = readers.map(|mut reader| {
        model.log.take(&model.shape, &mut reader.place, PIECE).unwrap().unwrap().frames.as_ptr()
    });
    assert_eq!(taken[0], taken[1]);
}

#[test]
fn a_reader_before_a_forgotten_removal_cannot_go_on() {
    let mut model = Model::new(2);
    (1..=4).for_each(|key| model.put(key));
    let mut reader = model.reader("").unwrap();
    reader.read_all(&model).unwrap();
    let held = reader.token.clone();
    (1..=2).for_each(|key| model.remove(key));
    assert!(model.reader(&held).is_ok());
    assert_eq!(model.log.removals(), 2);
    model.remove(3);
    assert_eq!((model.log.removals(), model.log.keys()), (2, 1));
    assert_eq!(reader.read(&model), Err(TooFarBehind));
    assert_eq!(model.reader(&held).unwrap_err().reason, Reason::ResumeTokenExpired);
}

#[test]
fn a_token_is_good_for_its_own_incarnation() {
    let mut model = Model::new(10);
    (1..=3).for_each(|key| model.put(key));
    let text = |epoch, generation| Token { epoch, generation }.text().as_str().to_owned();
    assert_eq!(model.log.place(&text(7, 2)).unwrap(), Place::Behind { at: 2, until: 3 });
    for other in [text(6, 2), text(8, 1), text(7, 4), "x".into(), "ü".into()] {
        assert_eq!(model.log.place(&other).unwrap_err().reason, Reason::ResumeTokenExpired, "{other}");
    }
    let mut reader = model.reader("").unwrap();
    model.put(1);
    model.log.renew(8);
    reader.read_all(&model).unwrap();
    assert_eq!(reader.view, model.values);
    assert_eq!(reader.token, text(8, 4));
    model.put(2);
    model.log.renew(9);
    reader.read_all(&model).unwrap();
    assert_eq!(reader.token, text(9, 5), "what was encoded before has the new token");
    assert!(model.log.place(&text(8, 4)).is_err());
}

#[test]
fn a_key_that_is_there_all_the_time_is_never_missing_from_a_snapshot() {
    let mut model = Model::new(10);
    (0..50).for_each(|key| model.put(key));
    let mut reader = model.reader("").unwrap();
    while !reader.whole {
        reader.read(&model).unwrap();
        // Moves to the end of the order, again and again.
        model.put(49);
        if reader.whole {
            assert_eq!(reader.view.len(), 50);
        }
    }
    reader.read_all(&model).unwrap();
    assert_eq!(reader.view, model.values);
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Remove(u8),
    Subscribe,
    Read(usize),
    Resume(usize),
    Renew,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12u8).prop_map(Step::Put),
        3 => (0..12u8).prop_map(Step::Remove),
        1 => Just(Step::Subscribe),
        4 => (0..4usize).prop_map(Step::Read),
        2 => (0..4usize).prop_map(Step::Resume),
        1 => Just(Step::Renew),
    ]
}

proptest! {
    #[test]
    fn every_reader_ends_with_what_is_published(steps in prop::collection::vec(step(), 0..300), most in 0..6usize) {
        let mut model = Model::new(most);
        let mut readers = vec![model.reader("").unwrap()];
        for step in steps {
            match step {
                Step::Put(key) => model.put(key),
                Step::Remove(key) => model.remove(key),
                Step::Subscribe => readers.push(model.reader("").unwrap()),
                Step::Renew => model.log.renew(model.log.epoch + 1),
                Step::Read(which) => {
                    let which = which % readers.len();
                    let before = model.changes;
                    if let Err(TooFarBehind) = readers[which].read(&model) {
                        readers[which] = model.reader("").unwrap();
                    }
                    prop_assert_eq!(before, model.changes);
                }
                Step::Resume(which) => {
                    let which = which % readers.len();
                    if !readers[which].token.is_empty() {
                        readers[which] =
                            model.resumed(&readers[which]).or_else(|_| model.reader("")).unwrap();
                    }
                }
            }
            prop_assert!(model.log.removals() <= most);
            prop_assert_eq!(model.log.keys(), model.values.len());
            prop_assert_eq!(model.log.generation(), model.changes);
        }
        for reader in &mut readers {
            let follows = matches!(reader.place, Place::At(_));
            let missing = model.log.entries.range(reader.place.generation() + 1..).count();
            match reader.read_all(&model) {
                Ok(messages) => {
                    prop_assert!(!follows || messages == missing, "{messages} for {missing} keys");
                    prop_assert_eq!(&reader.view, &model.values);
                }
                Err(TooFarBehind) => {
                    let mut again = model.reader("").unwrap();
                    again.read_all(&model).unwrap();
                    prop_assert_eq!(&again.view, &model.values);
                }
            }
        }
    }
}
