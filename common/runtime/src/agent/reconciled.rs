//! The incarnation in which a host was last brought in line with the records. A host that registered anew may have been given up
//! meanwhile: it takes nothing new before it has been told so.

use std::sync::Arc;

use kilonova_model::{Epoch, Error, HostName, Reason};
use tokio::sync::watch;

/// Whether the host is in line with the records in its present incarnation. Clones share it.
#[derive(Debug, Clone)]
pub struct Reconciled {
    epochs: watch::Receiver<Epoch>,
    under: Arc<watch::Sender<Option<Epoch>>>,
}

impl Reconciled {
    /// Not yet.
    pub fn new(epochs: watch::Receiver<Epoch>) -> Self {
        Self { epochs, under: Arc::new(watch::Sender::new(None)) }
    }

    /// Whether it is.
    pub fn holds(&self) -> bool {
        *self.under.borrow() == Some(*self.epochs.borrow())
    }

    /// It was brought in line in that incarnation.
    pub fn set(&self, epoch: Epoch) {
        self.under.send_if_modified(|under| under.replace(epoch) != Some(epoch));
    }

    /// It no longer is, for a reason other than a new incarnation.
    pub fn withdraw(&self) {
        self.under.send_if_modified(|under| under.take().is_some());
    }

    /// Tells whenever that changes, other than by a new incarnation.
    pub fn subscribe(&self) -> watch::Receiver<Option<Epoch>> {
        self.under.subscribe()
    }

    /// Refuses new work while it is not.
    pub fn admit(&self, host: &HostName) -> Result<(), Error> {
        if self.holds() {
            return Ok(());
        }
        let message = format!("{host} is being compared with the records and takes no new work yet");
        Err(Error::new(Reason::NotReady, message).with("host", host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_for_the_incarnation_it_was_done_in() {
        let (epochs, receiver) = watch::channel(Epoch(7));
        let (reconciled, host) = (Reconciled::new(receiver), HostName::parse("node1").unwrap());
        assert_eq!(reconciled.admit(&host).unwrap_err().reason, Reason::NotReady);
        reconciled.set(Epoch(7));
        assert!(reconciled.admit(&host).is_ok());
        epochs.send_replace(Epoch(9));
        assert!(!reconciled.holds());
        reconciled.set(Epoch(7));
        assert!(!reconciled.holds(), "what was compared in the earlier incarnation");
        reconciled.set(Epoch(9));
        assert!(reconciled.holds());
        reconciled.withdraw();
        assert!(!reconciled.holds());
    }
}
