//! The gate: a request goes to a handler if its method is served, else it hears UNIMPLEMENTED and why.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use kilonova_model::{Error, Reason};
use tonic::body::Body;
use tower::{Service, ServiceExt};

use super::admission::{Class, Kind};
use super::descriptors::KnownMethods;
use crate::wire::method::{Idempotency, MethodFacts, MethodType};
use crate::wire::metrics::{MethodMetrics, SERVER};

/// A generated gRPC service without its type.
pub(super) type Handler = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

pub(super) fn handler<S>(service: S) -> Handler
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    Arc::new(move |request| {
        let answer = service.clone().oneshot(request);
        answer.map(|answer| answer.unwrap_or_else(|never| match never {})).boxed()
    })
}

/// One method, as far as serving it goes.
pub(super) struct Method {
    /// `/package.Service/Method`.
    pub path: String,
    pub shape: MethodType,
    /// Whether its handler runs to its end when the caller has gone: it changes something, and is not to stop midway.
    pub outlives_caller: bool,
    pub class: Class,
    pub metrics: MethodMetrics,
    /// Called by machines all the time: its access line is for debugging only.
    pub quiet: bool,
    /// None for the one stand-in of all that is not served.
    pub handler: Option<Handler>,
}

impl Method {
    pub fn new(service: &str, facts: &MethodFacts, quiet: bool, handler: Option<Handler>) -> Self {
        let metrics = MethodMetrics::new(&SERVER, service, &facts.name, facts.shape);
        metrics.show();
        Self {
            path: format!("/{service}/{}", facts.name),
            shape: facts.shape,
            outlives_caller: facts.shape == MethodType::Unary
                && facts.idempotency != Idempotency::NoSideEffects,
            class: Class::of(service),
            metrics,
            quiet,
            handler,
        }
    }

    /// What its calls are counted as.
    pub fn kind(&self) -> Kind {
        if self.shape == MethodType::Unary { Kind::Call } else { Kind::Stream }
    }
}

/// Every path that is served.
pub(super) struct Gate {
    methods: HashMap<String, Arc<Method>>,
    refused: Arc<Method>,
    known: KnownMethods,
}

impl Gate {
    pub fn new(methods: Vec<Method>, known: KnownMethods) -> Self {
        // One stand-in for all: names come from callers, and metrics must not grow with what callers invent.
        let unknown = MethodFacts {
            name: "unknown".to_owned(),
            shape: MethodType::Unary,
            idempotency: Idempotency::NoSideEffects,
        };
        let refused = Method::new("unknown", &unknown, true, None);
        let methods = methods.into_iter().map(|method| (method.path.clone(), Arc::new(method))).collect();
        Self { methods, refused: Arc::new(refused), known }
    }

    pub fn find(&self, path: &str) -> &Arc<Method> {
        self.methods.get(path).unwrap_or(&self.refused)
    }

    /// Why a path is not served.
    pub fn refusal(&self, path: &str) -> Error {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (service, method) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let methods = self.known.of(service).unwrap_or_default();
        let known = methods.iter().any(|facts| facts.name == method);
        let message = if known {
            format!("{service}/{method} is not served here")
        } else {
            format!("{service}/{method} is not a method this version knows")
        };
        Error::new(Reason::MethodNotImplemented, message)
            .with("method", format_args!("{service}/{method}"))
            .with("known_to_this_version", known)
    }
}
