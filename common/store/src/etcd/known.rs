//! What the consumer of a watch has been told, as far as needed to find out whether something was missed.

use std::collections::BTreeMap;

use kilonova_model::Revision;

use crate::WatchEvent;

/// The keys reported, each with its mod revision, up to a revision.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    keys: BTreeMap<String, Revision>,
    /// Everything up to here has been reported.
    pub(super) revision: Revision,
}

impl Known {
    pub(super) fn new(keys: impl IntoIterator<Item = (String, Revision)>, revision: Revision) -> Self {
        Self { keys: keys.into_iter().collect(), revision }
    }

    /// Takes note of the changes of one answer; returns those that are news. One revision is never split over
    /// two answers.
    pub(super) fn take_news(&mut self, events: Vec<WatchEvent>) -> Vec<WatchEvent> {
        let before = self.revision;
        let news: Vec<_> = events.into_iter().filter(|event| event.revision() > before).collect();
        for event in &news {
            match event {
                WatchEvent::Put(item) => drop(self.keys.insert(item.key.clone(), item.mod_revision)),
                WatchEvent::Delete { key, .. } => drop(self.keys.remove(key)),
                WatchEvent::Snapshot { .. } => {}
            }
            self.revision = self.revision.max(event.revision());
        }
        news
    }

    /// Whether this is exactly what is there.
    pub(super) fn is(&self, listed: &[(String, Revision)]) -> bool {
        self.keys.len() == listed.len()
            && self.keys.iter().zip(listed).all(|((k, r), (key, revision))| k == key && r == revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyValue;

    fn put(key: &str, revision: u64) -> WatchEvent {
        let (create_revision, mod_revision) = (Revision(1), Revision(revision));
        WatchEvent::Put(KeyValue {
            key: key.into(),
            value: "".into(),
            create_revision,
            mod_revision,
            leased: false,
        })
    }

    fn delete(key: &str, revision: u64) -> WatchEvent {
        WatchEvent::Delete { key: key.into(), revision: Revision(revision) }
    }

    fn listed(keys: &[(&str, u64)]) -> Vec<(String, Revision)> {
        keys.iter().map(|(key, revision)| ((*key).to_owned(), Revision(*revision))).collect()
    }

    #[test]
    fn reports_each_change_once() {
        let mut known = Known::new(listed(&[("a", 3)]), Revision(5));
        assert_eq!(known.take_news(vec![put("a", 4), put("b", 5)]), vec![]);
        let news = vec![put("a", 6), put("b", 6), delete("a", 7)];
        assert_eq!(known.take_news(news.clone()), news);
        assert_eq!(known.revision, Revision(7));
        assert_eq!(known.take_news(news), vec![]);
        assert!(known.is(&listed(&[("b", 6)])));
    }

    #[test]
    fn a_missed_put_or_delete_shows() {
        let known = Known::new(listed(&[("a", 3), ("b", 4)]), Revision(5));
        assert!(known.is(&listed(&[("a", 3), ("b", 4)])));
        for other in
            [&[("a", 3)][..], &[("a", 3), ("b", 5)], &[("a", 3), ("b", 4), ("c", 5)], &[("a", 3), ("c", 4)]]
        {
            assert!(!known.is(&listed(other)), "{other:?}");
        }
    }
}
