//! Forgetting the words that no host uses any longer: versions before an upgrade, aggregates as they were before an edit.
//!
//! The vocabulary only grows, and a decision judges every set in it once. When it has grown to twice what was in use, all
//! rows are made anew from what their hosts published last, over a vocabulary that begins empty: with 10,000 hosts that takes
//! tens of milliseconds, and it comes the more seldom the more there is.

use super::manager::HostManager;
use crate::placement::{Space, Vocabulary};

/// With fewer words nobody looks.
pub(super) const FEW: usize = 4_096;

impl<S: Space> HostManager<S> {
    /// Forgets what nobody uses, if it may be half of all.
    pub(super) fn tidy(&mut self) {
        let before = self.world.vocabulary().size();
        if before < self.tidy_at {
            return;
        }
        *self.world.vocabulary_mut() = Vocabulary::default();
        let hosts: Vec<_> = self.entries.iter().map(|(host, entry)| (host.clone(), entry.id)).collect();
        for (host, id) in hosts {
            self.rebuild(&host);
            self.settle(id, &[]);
        }
        let words = self.world.vocabulary().size();
        self.tidy_at = FEW.max(2 * words);
        tracing::info!(service = %S::PUBLISHER, before, words, "forgot what no host publishes any longer");
    }
}
