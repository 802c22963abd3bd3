//! Whether a call is meant for this member: its cell, its host, its incarnation, and the version it implements.
//!
//! Addresses change hands: a port is taken over by another service, a mesh sends a call where it likes. So whoever
//! calls a host by name says which, and the receiver checks before anything is done.

use http::HeaderMap;
use kilonova_model::{Error, Reason, Version};

use super::builder::Identity;
use crate::caller::{CELL, TARGET_EPOCH, TARGET_HOST, VERSION};

/// Refuses a call that says that it is meant for another. What it does not say is not checked.
pub(super) fn check(headers: &HeaderMap, own: &Identity) -> Result<(), Error> {
    let said = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(cell) = said(CELL)
        && cell != own.cell.as_str()
    {
        let message = format!("the call is for cell {cell:?}, this is {}", own.cell);
        return Err(Error::new(Reason::WrongHost, message).with("target_cell", cell).with("cell", &own.cell));
    }
    if let Some(host) = said(TARGET_HOST)
        && host != own.host.as_str()
    {
        let message = format!("the call is for {host:?}, this is {} {}", own.service, own.host);
        return Err(Error::new(Reason::WrongHost, message).with("target", host).with("host", &own.host));
    }
    if let Some(epoch) = said(TARGET_EPOCH) {
        let current = *own.epoch.borrow();
        if epoch.parse() != Ok(current.0) {
            let message = format!("the call is for incarnation {epoch} of {}, this is {current}", own.host);
            let error = Error::new(Reason::StaleEpoch, message).with("host", &own.host);
            return Err(error.with("target_epoch", epoch).with("epoch", current));
        }
    }
    match said(VERSION).map(str::parse::<Version>) {
        None => Ok(()),
        Some(Ok(needed)) if own.version.understands(needed) => Ok(()),
        Some(Ok(needed)) => {
            let message = format!("the call needs version {needed}; {} implements {}", own.host, own.version);
            let error = Error::new(Reason::UnsupportedVersion, message).with("needed", needed);
            Err(error.with("implemented", own.version))
        }
        Some(Err(bad)) => Err(Error::new(Reason::ValidationFailed, format!("{VERSION}: {bad}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use kilonova_model::{CellName, Epoch, HostName, ServiceKind};
    use tokio::sync::watch;

    fn reason(said: &[(&'static str, &str)]) -> Option<Reason> {
        let own = Identity {
            service: ServiceKind::Compute,
            host: HostName::parse("node1").unwrap(),
            cell: CellName::parse("east").unwrap(),
            version: Version::v1(4),
            epoch: watch::channel(Epoch(7)).1,
        };
        let headers = said.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        check(&headers.collect(), &own).err().map(|error| error.reason)
    }

    #[test]
    fn only_who_is_meant_takes_the_call() {
        let full = [(CELL, "east"), (TARGET_HOST, "node1"), (TARGET_EPOCH, "7"), (VERSION, "1.4")];
        assert_eq!(reason(&full), None);
        assert_eq!(reason(&[]), None);
        assert_eq!(reason(&[(CELL, "west")]), Some(Reason::WrongHost));
        assert_eq!(reason(&[(TARGET_HOST, "node2"), (TARGET_EPOCH, "7")]), Some(Reason::WrongHost));
        for epoch in ["6", "8", "", "x"] {
            assert_eq!(reason(&[(TARGET_EPOCH, epoch)]), Some(Reason::StaleEpoch), "{epoch:?}");
        }
        for newer in ["1.5", "2.0", "1.4.1"] {
            assert_eq!(reason(&[(VERSION, newer)]), Some(Reason::UnsupportedVersion), "{newer}");
        }
        assert_eq!(reason(&[(VERSION, "1.0")]), None);
        assert_eq!(reason(&[(VERSION, "new")]), Some(Reason::ValidationFailed));
    }
}
