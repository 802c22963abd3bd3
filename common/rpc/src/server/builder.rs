//! Puts a server together: services, what of them is served, and limits.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use http::{Request, Response};
use kilonova_model::{CellName, Epoch, HostName, ServiceKind, Version};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

use super::admission::Admission;
use super::call::Core;
use super::descriptors::{KnownMethods, Methods, ServedServices, prune};
use super::gate::{Gate, Handler, Method, handler};
use super::health::{Health, HealthService};
use super::health_list::{self, ListService};
use super::listen::{Limits, Server};
use super::reflection;
use crate::transport::Listen;
use crate::wire::method::MethodFacts;

/// Who serves: named in every access line, and compared with whom a call is meant for.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The service.
    pub service: ServiceKind,
    /// The member.
    pub host: HostName,
    /// The cell it belongs to.
    pub cell: CellName,
    /// The version of the interfaces it implements.
    pub version: Version,
    /// Its incarnation, as it changes.
    pub epoch: watch::Receiver<Epoch>,
}

impl Identity {
    /// A member of version 1.0 that is not registered: epoch 0.
    #[must_use]
    pub fn unregistered(service: ServiceKind, host: HostName, cell: CellName) -> Self {
        Self { service, host, cell, version: Version::v1(0), epoch: watch::channel(Epoch(0)).1 }
    }
}

/// What is served of a gRPC service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    service: String,
    methods: Methods,
}

impl Served {
    /// Every method of `package.Service`.
    pub fn all(service: impl Into<String>) -> Self {
        Self { service: service.into(), methods: Methods::All }
    }

    /// These methods of `package.Service`; the others answer UNIMPLEMENTED and are not listed.
    pub fn only(service: impl Into<String>, methods: &[&str]) -> Self {
        let methods = methods.iter().map(|name| (*name).to_owned()).collect();
        Self { service: service.into(), methods: Methods::Only(methods) }
    }
}

/// A server in the making that cannot be made: a defect in the program, found at its first start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// What is to be served does not fit what was added.
    #[error("{added} was added as {served}")]
    Mismatch {
        /// The service that was added.
        added: &'static str,
        /// The name it was to be served under.
        served: String,
    },
    /// The same service again.
    #[error("{0} was added twice")]
    Twice(String),
    /// No descriptor defines the service or the method.
    #[error("no descriptor defines {0}")]
    NotDescribed(String),
    /// The descriptors cannot be read.
    #[error("the descriptors cannot be read: {0}")]
    Descriptors(String),
    /// The listener has no address.
    #[error("the listener is of no use: {0}")]
    Listener(#[from] io::Error),
}

/// A server in the making. Health and reflection are always part of it.
pub struct ServerBuilder {
    identity: Identity,
    limits: Limits,
    descriptors: Vec<Vec<u8>>,
    added: Vec<(&'static str, Handler, Served)>,
    reflection: bool,
    health: Health,
    streams_end: CancellationToken,
}

impl ServerBuilder {
    /// A server of nothing yet.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            limits: Limits::default(),
            descriptors: vec![kilonova_proto::FILE_DESCRIPTOR_SET.to_vec()],
            added: Vec::new(),
            reflection: true,
            health: Health::new(),
            streams_end: CancellationToken::new(),
        }
    }

    /// Serves a generated service, as far as `served` says.
    #[must_use]
    pub fn add<S>(mut self, service: S, served: Served) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.added.push((S::NAME, handler(service), served));
        self
    }

    /// Adds descriptors (an encoded `FileDescriptorSet`) of services that are not Kilonova's own.
    #[must_use]
    pub fn descriptors(mut self, encoded: &[u8]) -> Self {
        self.descriptors.push(encoded.to_vec());
        self
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether the server describes itself to tools; it does unless told otherwise.
    #[must_use]
    pub fn reflection(mut self, on: bool) -> Self {
        self.reflection = on;
        self
    }

    /// Ends streams with this token instead of one of the server's own.
    #[must_use]
    pub fn end_streams_with(mut self, token: CancellationToken) -> Self {
        self.streams_end = token;
        self
    }

    /// Cancelled when streams are to end. Handlers of streams may listen to it for a last word; streams that do
    /// not are ended with UNAVAILABLE and reason DRAINING.
    #[must_use]
    pub fn streams_end(&self) -> CancellationToken {
        self.streams_end.clone()
    }

    /// What the health service says; NOT_SERVING until told otherwise.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Serves on this listener until [`Server::stop`]. Must be called inside a Tokio runtime.
    pub fn serve(self, listener: impl Listen) -> Result<Server, BuildError> {
        let address = listener.local_addr()?;
        let (limits, health, streams_end) =
            (self.limits.clone(), self.health.clone(), self.streams_end.clone());
        let core = Arc::new(self.build()?);
        Ok(Server::start(core, Box::new(listener), address, limits, health, streams_end))
    }

    fn build(self) -> Result<Core, BuildError> {
        let served = self.served()?;
        let mut sets = Vec::new();
        for encoded in &self.descriptors {
            sets.push(decode(encoded)?);
        }
        let mut known = KnownMethods::default();
        for set in &sets {
            known.add(set);
        }
        for encoded in reflection::built_in() {
            known.add(&decode(&encoded)?);
        }
        let mut methods = Vec::new();
        for (name, handler, served) in &self.added {
            methods.extend(methods_of(name, handler, &served.methods, &known, false)?);
        }
        let pruned =
            FileDescriptorSet { file: sets.iter().flat_map(|set| prune(set, &served).file).collect() };
        let health = HealthService::new(self.health.clone(), served.keys().cloned());
        for (name, handler) in self.built_in(&pruned, &health)? {
            methods.extend(methods_of(name, &handler, &Methods::All, &known, true)?);
        }
        if let Some(list) = methods.iter_mut().find(|method| method.path == health_list::PATH) {
            list.handler = Some(handler(ListService(health)));
        }
        let admission = Admission::new(self.limits.admission, self.identity.service.as_str());
        Ok(Core {
            identity: Arc::new(self.identity),
            gate: Gate::new(methods, known),
            admission: Arc::new(admission),
            longest_message: self.limits.max_message_bytes,
            longest_call: self.limits.longest_call,
            streams_end: self.streams_end,
            calls: TaskTracker::new(),
            cut: CancellationToken::new(),
        })
    }

    fn served(&self) -> Result<ServedServices, BuildError> {
        let mut services = BTreeMap::new();
        for (added, _, served) in &self.added {
            if *added != served.service {
                return Err(BuildError::Mismatch { added, served: served.service.clone() });
            }
            if services.insert(served.service.clone(), served.methods.clone()).is_some() {
                return Err(BuildError::Twice(served.service.clone()));
            }
        }
        Ok(services)
    }

    fn built_in(
        &self,
        pruned: &FileDescriptorSet,
        health: &HealthService,
    ) -> Result<Vec<(&'static str, Handler)>, BuildError> {
        let mut services = vec![("grpc.health.v1.Health", handler(HealthServer::new(health.clone())))];
        if self.reflection {
            let unreadable =
                |error: tonic_reflection::server::Error| BuildError::Descriptors(error.to_string());
            services.extend(reflection::services(pruned).map_err(unreadable)?);
        }
        Ok(services)
    }
}

fn decode(encoded: &[u8]) -> Result<FileDescriptorSet, BuildError> {
    FileDescriptorSet::decode(encoded).map_err(|error| BuildError::Descriptors(error.to_string()))
}

fn methods_of(
    service: &str,
    handler: &Handler,
    wanted: &Methods,
    known: &KnownMethods,
    quiet: bool,
) -> Result<Vec<Method>, BuildError> {
    let all = known.of(service).ok_or_else(|| BuildError::NotDescribed(service.to_owned()))?;
    if let Methods::Only(names) = wanted
        && let Some(name) =
            names.iter().find(|name| all.iter().all(|known: &MethodFacts| known.name != **name))
    {
        return Err(BuildError::NotDescribed(format!("{service}/{name}")));
    }
    let served = all.iter().filter(|facts| wanted.contains(&facts.name));
    Ok(served.map(|facts| Method::new(service, facts, quiet, Some(handler.clone()))).collect())
}
