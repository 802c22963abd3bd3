//! How long registrations last.

use std::time::Duration;

use kilonova_model::ServiceKind;

/// How a member stays registered.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// How long the record outlives a member that stopped renewing it.
    pub ttl: Duration,
}

impl RegistryOptions {
    /// Usual for members of a service: 15 s, and 30 s for agents, of which there are many. Whoever calls them
    /// learns much sooner from its connection that one is gone.
    #[must_use]
    pub fn for_service(service: ServiceKind) -> Self {
        let seconds = match service {
            ServiceKind::Api | ServiceKind::Conductor | ServiceKind::Scheduler => 15,
            ServiceKind::Compute | ServiceKind::Volume => 30,
        };
        Self { ttl: Duration::from_secs(seconds) }
    }
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(15) }
    }
}
