//! Whether a command is for this host and this incarnation of it.

use kilonova_model::{Epoch, Error, HostName, Reason};

use crate::readiness::Readiness;

/// The condition of a service's readiness that says that it is stopping.
const STOPPING: &str = "stopping";

/// For whom a command is meant, as it came over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addressee<'a> {
    /// The host or backend.
    pub host: &'a str,
    /// Its incarnation.
    pub epoch: u64,
}

/// Refuses a command that is meant for another host or another incarnation of this one.
pub fn admit(to: Addressee<'_>, own_host: &HostName, own_epoch: Epoch) -> Result<(), Error> {
    if to.host != own_host.as_str() {
        let message = format!("the command is for {:?}, this is {own_host}", to.host);
        return Err(Error::new(Reason::WrongHost, message).with("target", to.host).with("host", own_host));
    }
    if to.epoch != own_epoch.0 {
        let message =
            format!("the command is for incarnation {} of {own_host}, this is {own_epoch}", to.epoch);
        return Err(Error::new(Reason::StaleEpoch, message)
            .with("host", own_host)
            .with("target_epoch", to.epoch)
            .with("epoch", own_epoch));
    }
    Ok(())
}

/// Like [`admit`], for questions, which may leave the incarnation open (0).
pub fn admit_question(to: Addressee<'_>, own_host: &HostName, own_epoch: Epoch) -> Result<(), Error> {
    let epoch = if to.epoch == 0 { own_epoch.0 } else { to.epoch };
    admit(Addressee { epoch, ..to }, own_host, own_epoch)
}

/// Refuses new work once the service is stopping.
pub fn refuse_if_stopping(readiness: &Readiness, own_host: &HostName) -> Result<(), Error> {
    if readiness.current().missing().all(|(condition, _)| condition != STOPPING) {
        return Ok(());
    }
    Err(Error::new(Reason::Draining, format!("{own_host} is stopping")).with("host", own_host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(host: &str, epoch: u64) -> Option<Reason> {
        let own = HostName::parse("node1").unwrap();
        admit(Addressee { host, epoch }, &own, Epoch(7)).err().map(|error| error.reason)
    }

    #[test]
    fn only_this_host_in_this_incarnation_is_meant() {
        assert_eq!(reason("node1", 7), None);
        assert_eq!(reason("node2", 7), Some(Reason::WrongHost));
        assert_eq!(reason("", 7), Some(Reason::WrongHost));
        for epoch in [0, 6, 8] {
            assert_eq!(reason("node1", epoch), Some(Reason::StaleEpoch), "{epoch}");
        }
    }

    #[test]
    fn a_host_that_stops_takes_nothing_new() {
        let own = HostName::parse("node1").unwrap();
        let readiness = Readiness::new();
        readiness.not("conductor", "none yet");
        assert!(refuse_if_stopping(&readiness, &own).is_ok());
        readiness.not("stopping", "the service is stopping");
        assert_eq!(refuse_if_stopping(&readiness, &own).unwrap_err().reason, Reason::Draining);
    }

    #[test]
    fn a_question_may_leave_the_incarnation_open() {
        let own = HostName::parse("node1").unwrap();
        let ask = |epoch| admit_question(Addressee { host: "node1", epoch }, &own, Epoch(7));
        assert!(ask(0).is_ok() && ask(7).is_ok());
        assert_eq!(ask(6).unwrap_err().reason, Reason::StaleEpoch);
    }
}
