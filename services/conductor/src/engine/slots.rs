//! How many commands one host is sent at once: a host that answers slowly must not take all the places there are.

use std::collections::HashMap;

use parking_lot::Mutex;

/// The commands under way, by host.
#[derive(Debug)]
pub struct Slots {
    most: usize,
    taken: Mutex<HashMap<String, usize>>,
}

/// One command under way, until it is dropped.
#[derive(Debug)]
pub struct Slot<'a> {
    slots: &'a Slots,
    host: String,
}

impl Slots {
    /// At most so many for each host.
    pub fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default() }
    }

    /// A place for one more command to that host; none while it has as many as may be.
    pub fn take(&self, host: &str) -> Option<Slot<'_>> {
        let mut taken = self.taken.lock();
        let count = taken.entry(host.to_owned()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Slot { slots: self, host: host.to_owned() })
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        if let Some(count) = taken.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_its_own_places_and_they_come_back() {
        let slots = Slots::new(2);
        let (first, _second) = (slots.take("h1").unwrap(), slots.take("h1").unwrap());
        assert!(slots.take("h1").is_none());
        let other = slots.take("h2").unwrap();
        drop(first);
        assert!(slots.take("h1").is_some());
        drop(other);
        assert_eq!(slots.taken.lock().len(), 1, "a host without commands is forgotten");
    }
}
