//! One call to every member of a service.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures::{StreamExt, stream};
use kilonova_model::{HostName, Revision, ServiceKind};
use tokio::time::timeout;
use tonic::Status;

use super::{Channel, Peers};
use crate::outcome::CallError;
use crate::registry::Member;

/// What every member answered.
#[derive(Debug)]
pub struct FannedOut<T> {
    /// The registry's revision at which these were all the members; 0 if it has not been read.
    pub revision: Revision,
    /// One result for each.
    pub results: BTreeMap<HostName, Result<T, CallError>>,
}

impl Peers {
    /// Calls every member that is registered now, draining ones too, `at_once` at a time. A member that joins later
    /// is not called: who must reach that one as well publishes a state instead, and lets members subscribe.
    pub async fn fan_out<T, F, Fut>(&self, service: ServiceKind, at_once: usize, call: F) -> FannedOut<T>
    where
        F: Fn(Channel, Arc<Member>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let members = self.registry().members(service);
        // Not read in time: there are no members then, and the revision says why.
        let set = timeout(self.inner.options.connect_timeout, members.known()).await;
        let set = set.unwrap_or_else(|_| members.current());
        let calls = set.members.values().map(|member| {
            let answer = call(self.call_host(service, &member.host), member.clone());
            let host = member.host.clone();
            async move { (host, answer.await.map_err(CallError::from)) }
        });
        let results = stream::iter(calls).buffer_unordered(at_once.max(1)).collect::<Vec<_>>().await;
        FannedOut { revision: set.revision, results: results.into_iter().collect() }
    }
}
