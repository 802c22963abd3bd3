//! What the parts of a running scheduler share.

use kilonova_model::{HostName, ServiceKind};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::{BadConfig, Config};
use crate::hosts::{Counts, HostManager, Standing};
use crate::placement::{Compute, Space, Storage};

/// The memory of a scheduler. Locks are held for one decision or one update, never across an `.await`.
pub(crate) struct State {
    pub host: HostName,
    pub hosts: Mutex<HostManager<Compute>>,
    pub backends: Mutex<HostManager<Storage>>,
    /// Who is registered and up, of both kinds, as it changes.
    pub standings: watch::Sender<Standings>,
}

/// The standing of both kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standings {
    pub hosts: Standing,
    pub backends: Standing,
}

impl State {
    pub fn new(host: HostName, config: &Config) -> Result<Self, BadConfig> {
        let hosts = HostManager::new(config.hosts.chain()?, config.options());
        let backends = HostManager::new(config.backends.chain()?, config.options());
        let standings = watch::Sender::new(Standings::default());
        Ok(Self { host, hosts: Mutex::new(hosts), backends: Mutex::new(backends), standings })
    }
}

/// A kind of placement whose state a scheduler keeps.
pub(crate) trait Kept: Space {
    fn of(state: &State) -> &Mutex<HostManager<Self>>;

    fn standing(standings: &mut Standings) -> &mut Standing;

    /// Changes what is known, and tells when another number is registered or up.
    fn update<T>(state: &State, change: impl FnOnce(&mut HostManager<Self>) -> T) -> T {
        let mut known = Self::of(state).lock();
        let result = change(&mut known);
        let now = known.standing();
        state.standings.send_if_modified(|standings| {
            let before = std::mem::replace(Self::standing(standings), now);
            before != now
        });
        result
    }
}

impl Kept for Compute {
    fn of(state: &State) -> &Mutex<HostManager<Self>> {
        &state.hosts
    }

    fn standing(standings: &mut Standings) -> &mut Standing {
        &mut standings.hosts
    }
}

impl Kept for Storage {
    fn of(state: &State) -> &Mutex<HostManager<Self>> {
        &state.backends
    }

    fn standing(standings: &mut Standings) -> &mut Standing {
        &mut standings.backends
    }
}

/// One kind of publisher in figures.
pub(crate) struct Overview {
    pub service: ServiceKind,
    pub counts: Counts,
    /// The first few that are down, each with the reason.
    pub down: Vec<(String, String)>,
}

/// Both kinds, naming at most so many that are down.
pub(crate) fn overview(state: &State, down: usize) -> [Overview; 2] {
    fn one<S: Kept>(state: &State, down: usize) -> Overview {
        let hosts = S::of(state).lock();
        Overview { service: S::PUBLISHER, counts: hosts.counts(), down: hosts.down(down) }
    }
    [one::<Compute>(state, down), one::<Storage>(state, down)]
}
