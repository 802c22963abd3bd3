//! Who calls and who is meant: what every call says in its metadata.

use http::HeaderValue;
use kilonova_model::{HostName, ServiceKind};

/// Metadata key of the calling service.
pub const CALLER_SERVICE: &str = "kilonova-caller-service";
/// Metadata key of the calling host.
pub const CALLER_HOST: &str = "kilonova-caller-host";
/// Metadata key of the cell a call belongs to.
pub const CELL: &str = "kilonova-cell";
/// Metadata key of the host a directed call is meant for.
pub const TARGET_HOST: &str = "kilonova-target-host";
/// Metadata key of the incarnation of that host it is meant for.
pub const TARGET_EPOCH: &str = "kilonova-target-epoch";
/// Metadata key of the version of the interface a call needs, as in `1.4`.
pub const VERSION: &str = "kilonova-version";

/// One member of a service, as a caller. What it says of itself proves nothing without a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The calling service.
    pub service: ServiceKind,
    /// The calling member.
    pub host: HostName,
}

impl Caller {
    /// A caller.
    #[must_use]
    pub fn new(service: ServiceKind, host: HostName) -> Self {
        Self { service, host }
    }

    /// The caller a request names; `None` for callers outside Kilonova.
    #[must_use]
    pub fn from_request<T>(request: &tonic::Request<T>) -> Option<Self> {
        Self::from_metadata(request.metadata())
    }

    /// The caller named in metadata; `None` for callers outside Kilonova.
    #[must_use]
    pub fn from_metadata(metadata: &tonic::metadata::MetadataMap) -> Option<Self> {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
        let service = text(CALLER_SERVICE)?.parse().ok()?;
        let host = text(CALLER_HOST)?.parse().ok()?;
        Some(Self { service, host })
    }

    /// The two metadata values, made once and sent with every call.
    pub(crate) fn header_values(&self) -> (HeaderValue, HeaderValue) {
        let host = HeaderValue::from_str(self.host.as_str()).expect("host names are visible ASCII");
        (HeaderValue::from_static(self.service.as_str()), host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_read_from_metadata_and_absent_for_strangers() {
        let mut request = tonic::Request::new(());
        assert_eq!(Caller::from_request(&request), None);
        let caller = Caller::new(ServiceKind::Volume, HostName::parse("node1@lvm").unwrap());
        let (service, host) = caller.header_values();
        request.metadata_mut().insert(CALLER_SERVICE, service.to_str().unwrap().parse().unwrap());
        request.metadata_mut().insert(CALLER_HOST, host.to_str().unwrap().parse().unwrap());
        assert_eq!(Caller::from_request(&request), Some(caller));
        request.metadata_mut().insert(CALLER_SERVICE, "nova".parse().unwrap());
        assert_eq!(Caller::from_request(&request), None);
    }
}
