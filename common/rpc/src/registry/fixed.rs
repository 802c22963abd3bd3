//! Members that never change: a static list, and the one address of a mesh.

use std::future::Future;
use std::sync::Arc;

use kilonova_model::{HostName, Revision, ServiceKind};
use kilonova_store::WatchHealth;
use tokio::sync::watch;

use super::members::{MemberSet, Members, Unlisted};
use super::targets::{Address, HostAddress, bare_member};

/// These members, for ever.
pub(super) fn list(
    service: ServiceKind,
    members: &[(HostName, Address)],
    host_address: Option<HostAddress>,
) -> (Members, impl Future<Output = ()> + Send + use<>) {
    let member = |(host, address): &(HostName, Address)| {
        let address = address.as_str().to_owned();
        (host.clone(), Arc::new(bare_member(host.clone(), address.clone(), address)))
    };
    let unlisted = host_address.map_or(Unlisted::Unknown, Unlisted::At);
    fixed(
        service,
        MemberSet { members: members.iter().map(member).collect(), unlisted, ..MemberSet::default() },
    )
}

/// One member that stands for all. A host called by its name is reached through it.
pub(super) fn mesh(
    service: ServiceKind,
    address: &Address,
    host_address: Option<HostAddress>,
) -> (Members, impl Future<Output = ()> + Send + use<>) {
    let (host, address) = (address.host_name(), address.as_str().to_owned());
    let member = Arc::new(bare_member(host.clone(), address.clone(), address));
    let unlisted = host_address.map_or_else(|| Unlisted::Through(member.clone()), Unlisted::At);
    fixed(service, MemberSet { members: [(host, member)].into(), unlisted, ..MemberSet::default() })
}

fn fixed(service: ServiceKind, set: MemberSet) -> (Members, impl Future<Output = ()> + Send + use<>) {
    let (kept, health) = watch::channel(WatchHealth::now(true));
    let (members, source) = Members::new(service, health);
    source.sets.send_replace(Arc::new(MemberSet { revision: Revision(1), ..set }));
    let work = async move {
        let _open = (source, kept);
        std::future::pending().await
    };
    (members, work)
}
