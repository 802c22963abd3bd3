//! What to do about each reason: one sentence for the person who meets it.

use super::Reason;

impl Reason {
    /// What the caller should do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::ValidationFailed => "mend the fields named and send it again",
            Self::PageTokenInvalid => "start at the first page, and keep the filter the same between pages",
            Self::RequestIdReused => "use a new request id for a new request",
            Self::InstanceNotFound => {
                "look for it with `kilonova instance list`; it may be deleted or in another project"
            }
            Self::SnapshotNotFound => {
                "look for it with `kilonova snapshot list`; it may be deleted or in another project"
            }
            Self::VolumeNotFound => {
                "look for it with `kilonova volume list`; it may be deleted or in another project"
            }
            Self::FlavorNotFound => "name a flavor that exists: `kilonova flavor list`",
            Self::ImageNotFound => "name an image that exists: `kilonova image list`",
            Self::ServerGroupNotFound => {
                "name a group of this project that exists: `kilonova server-group list`"
            }
            Self::AggregateNotFound => "name an aggregate that exists: `kilonova aggregate list`",
            Self::HostNotFound => "name a host that exists: `kilonova host list`",
            Self::ResourceExists => "choose another id, or use the one that exists",
            Self::QuotaExceeded => "delete something, or ask for a greater quota: `kilonova quota show`",
            Self::InvalidState => "wait until it is in another state, or delete it",
            Self::EtagMismatch => "somebody changed it: read it again and decide again",
            Self::Conflict => "try again: others were changing the same record, and nothing was done",
            Self::NoValidHost => {
                "ask for less, enable or add a host, or relax the hints; the explanation says which filter removed what"
            }
            Self::NoValidBackend => {
                "ask for less, enable or add a backend, or relax the demands; the explanation says which filter removed what"
            }
            Self::ClaimRefused => "nothing: another host is tried; add capacity if it keeps happening",
            Self::StillRemoving => {
                "nothing: another host is tried; if it lasts, look why that host's driver cannot remove it"
            }
            Self::OlderGenerationPresent => {
                "nothing: what is there is removed and another host is tried; if it lasts, `kilonova audit` finds it"
            }
            Self::HostDisabled => "enable the host, or let another take the work: `kilonova host enable`",
            Self::DriverFailed => "read that host's log: its hypervisor or storage refused the work",
            Self::BuildTimeout => "look whether that host is overloaded or hangs; another host is tried",
            Self::OperationTimeout => {
                "look whether that host is overloaded or hangs, then ask again; it may yet be done"
            }
            Self::BuildLost => "look what happened to it on that host; delete it and create it again",
            Self::MaxAttemptsExceeded => {
                "read why each attempt failed, mend the cause, delete it and create it again"
            }
            Self::WrongHost => "nothing: the sender reads the registry again and repeats the command",
            Self::StaleEpoch => {
                "nothing: the sender reads the registry again; if it lasts, two agents run under one host name"
            }
            Self::StaleGeneration => "nothing: a newer command took the place of this one",
            Self::NotOwnHost => {
                "check that agent's host name and certificate: an agent speaks for itself only"
            }
            Self::MethodNotImplemented => "do without: this version does not serve the method",
            Self::UnsupportedVersion => {
                "upgrade the older of the two; `kilonova service list` shows what each speaks"
            }
            Self::ResumeTokenExpired => "watch again without a token",
            Self::SlowConsumer => "reconnect with the last token, and read faster or watch less",
            Self::Overloaded => "try again a little later, with fewer requests at once",
            Self::NotReady => {
                "try again in a moment: the service is starting; /readyz?verbose says what it waits for"
            }
            Self::Draining => "try again: another member takes it, and nothing was done",
            Self::StoreUnavailable => {
                "look whether the store (etcd, or the data directory) is well, then try again: nothing was done"
            }
            Self::NoEndpoint => "start one, or look why none is ready: `kilonova service list`",
            Self::NoSuchHost => {
                "start that host's agent, or look why it does not register: `kilonova service list`"
            }
            Self::ConnectFailed => {
                "look whether the member runs and its address can be reached from here; nothing was done"
            }
            Self::DeadlineExceeded => {
                "look whether it was done; send it again with the same request id, with more time"
            }
            Self::ConnectionLost => "send it again with the same request id: it will not be done twice",
            Self::StoreOutcomeUnknown => "send it again with the same request id: it will not be done twice",
            Self::Internal => {
                "report it with the log of the service that answered; a request with an id may be repeated"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_one_line_without_a_full_stop() {
        for reason in Reason::ALL {
            let advice = reason.advice();
            assert!(
                !advice.is_empty() && !advice.contains('\n') && !advice.ends_with('.'),
                "{reason}: {advice}"
            );
        }
    }
}
