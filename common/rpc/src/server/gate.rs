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

use super::descriptors::{KnownMethods, MethodType};
use super::metrics::MethodMetrics;

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
    pub metrics: MethodMetrics,
    /// Called by machines all the time: its access line is for debugging only.
    pub quiet: bool,
    /// None for the one stand-in of all that is not served.
    pub handler: Option<Handler>,
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
        let refused = Method {
            path: "unknown".to_owned(),
            shape: MethodType::Unary,
            metrics: MethodMetrics::new("unknown", "unknown", MethodType::Unary),
            quiet: true,
            handler: None,
        };
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
        let known = methods.iter().any(|(name, _)| name == method);
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
