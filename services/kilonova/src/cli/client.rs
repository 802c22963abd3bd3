//! The connection to the api, with the time a command has left.

use std::error::Error as _;
use std::time::Duration;

use kilonova_proto::api::v1::aggregate_service_client::AggregateServiceClient;
use kilonova_proto::api::v1::audit_service_client::AuditServiceClient;
use kilonova_proto::api::v1::flavor_service_client::FlavorServiceClient;
use kilonova_proto::api::v1::host_service_client::HostServiceClient;
use kilonova_proto::api::v1::image_service_client::ImageServiceClient;
use kilonova_proto::api::v1::instance_service_client::InstanceServiceClient;
use kilonova_proto::api::v1::placement_service_client::PlacementServiceClient;
use kilonova_proto::api::v1::quota_service_client::QuotaServiceClient;
use kilonova_proto::api::v1::server_group_service_client::ServerGroupServiceClient;
use kilonova_proto::api::v1::snapshot_service_client::SnapshotServiceClient;
use kilonova_proto::api::v1::store_service_client::StoreServiceClient;
use kilonova_proto::api::v1::volume_service_client::VolumeServiceClient;
use kilonova_proto::base::v1::GetServiceInfoRequest;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::types::v1::ServiceKind;
use kilonova_rpc::status::from_status;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::failure::Failure;
use super::options::GlobalOptions;
use super::service::kind_label;

/// The page size of lists, and the answer it may need.
pub const PAGE: i32 = 500;
const MAX_ANSWER: usize = 64 << 20;

/// How long it may take to find out who listens where an api should.
const WHO_WITHIN: Duration = Duration::from_secs(1);
/// What is said of a listener that knows nothing of Kilonova.
const STRANGER: &str = "what listens there does not speak its gRPC";

/// A connection to the api.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    endpoint: String,
    /// When the command's time is over.
    deadline: Option<Instant>,
    /// How long one request may take.
    request_limit: Duration,
}

impl Client {
    /// Connects, within the time for one request.
    pub async fn connect(options: &GlobalOptions, limit: Option<Duration>) -> Result<Self, Failure> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let endpoint = parse_endpoint(&options.endpoint)?.http2_keep_alive_interval(Duration::from_secs(10));
        let unreachable = |cause: String| Failure::Unreachable {
            endpoint: options.endpoint.clone(),
            cause,
            request_id: None,
        };
        let request_limit = options.request_limit();
        #[expect(clippy::disallowed_methods, reason = "the api is given by its address, not by the registry")]
        let connected = tokio::time::timeout(request_limit, endpoint.connect()).await;
        let channel = match connected {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(unreachable(innermost(&error))),
            Err(_) => return Err(unreachable(format!("no connection within {request_limit:?}"))),
        };
        Ok(Self { channel, endpoint: options.endpoint.clone(), deadline, request_limit })
    }

    /// The same with another limit for one request.
    #[must_use]
    pub fn allowing(self, request_limit: Duration) -> Self {
        Self { request_limit, ..self }
    }

    /// When the command's time is over.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Makes one call within the time that is left. `request_id` is what to repeat it with.
    pub async fn call<Q, R>(
        &self,
        message: Q,
        request_id: Option<&str>,
        call: impl AsyncFnOnce(Request<Q>) -> Result<Response<R>, Status>,
    ) -> Result<R, Failure> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let limit = left.map_or(self.request_limit, |left| left.min(self.request_limit));
        let mut request = Request::new(message);
        request.set_timeout(limit);
        match tokio::time::timeout(limit, call(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.explained(status, request_id).await),
            Err(_) => {
                Err(self
                    .failure(Status::deadline_exceeded(format!("no answer within {limit:?}")), request_id))
            }
        }
    }

    /// The same as [`Self::failure`]; where it looks as if no api were there, it asks who is.
    pub async fn explained(&self, status: Status, request_id: Option<&str>) -> Failure {
        let foreign = match status.code() {
            Code::Unimplemented => true,
            // Made here, of an answer that is none, although the connection stands.
            Code::Unknown | Code::Internal => from_status(&status).is_none(),
            _ => false,
        };
        match if foreign { self.who().await } else { None } {
            Some(cause) => Failure::Unreachable { endpoint: self.endpoint.clone(), cause, request_id: None },
            None => self.failure(status, request_id),
        }
    }

    /// Who answers, when that is no api.
    async fn who(&self) -> Option<String> {
        let mut base = BaseServiceClient::new(self.channel.clone());
        let asked = tokio::time::timeout(WHO_WITHIN, base.get_service_info(GetServiceInfoRequest {})).await;
        match asked.ok()? {
            Ok(info) => {
                let info = info.into_inner();
                let kind = info.service();
                (kind != ServiceKind::Api)
                    .then(|| format!("{} {} listens there", kind_label(kind), info.host))
            }
            Err(status) => {
                let strange = matches!(status.code(), Code::Unimplemented | Code::Unknown | Code::Internal);
                (strange && from_status(&status).is_none()).then(|| STRANGER.to_owned())
            }
        }
    }

    /// What a status means: an answer of the api, or no answer.
    #[must_use]
    pub fn failure(&self, status: Status, request_id: Option<&str>) -> Failure {
        let request_id = request_id.map(str::to_owned);
        match made_here(&status) {
            Some(Local::Timeout) => Failure::Answered {
                status: Box::new(Status::deadline_exceeded("no answer in time")),
                request_id,
            },
            Some(Local::Transport(cause)) => {
                Failure::Unreachable { endpoint: self.endpoint.clone(), cause, request_id }
            }
            None => Failure::Answered { status: Box::new(status), request_id },
        }
    }

    /// The instances of the api.
    #[must_use]
    pub fn instances(&self) -> InstanceServiceClient<Channel> {
        InstanceServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// The volumes of the api.
    #[must_use]
    pub fn volumes(&self) -> VolumeServiceClient<Channel> {
        VolumeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// The snapshots of the api.
    #[must_use]
    pub fn snapshots(&self) -> SnapshotServiceClient<Channel> {
        SnapshotServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// The flavors of the api.
    #[must_use]
    pub fn flavors(&self) -> FlavorServiceClient<Channel> {
        FlavorServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// The images of the api.
    #[must_use]
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// The server groups of the api.
    #[must_use]
    pub fn server_groups(&self) -> ServerGroupServiceClient<Channel> {
        ServerGroupServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// The aggregates of the api.
    #[must_use]
    pub fn aggregates(&self) -> AggregateServiceClient<Channel> {
        AggregateServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// The hosts and services of the api.
    #[must_use]
    pub fn hosts(&self) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// The store's identity, of the api.
    #[must_use]
    pub fn stores(&self) -> StoreServiceClient<Channel> {
        StoreServiceClient::new(self.channel.clone())
    }

    /// The audits of the api.
    #[must_use]
    pub fn audits(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// The placements of the api.
    #[must_use]
    pub fn placements(&self) -> PlacementServiceClient<Channel> {
        PlacementServiceClient::new(self.channel.clone())
    }

    /// The quotas of the api.
    #[must_use]
    pub fn quotas(&self) -> QuotaServiceClient<Channel> {
        QuotaServiceClient::new(self.channel.clone())
    }
}

/// Why a status was made in this process.
enum Local {
    Timeout,
    Transport(String),
}

/// A status that came over the wire has no source; one that tonic made here has.
fn made_here(status: &Status) -> Option<Local> {
    let mut source = status.source()?;
    loop {
        if source.is::<tonic::TimeoutExpired>() {
            return Some(Local::Timeout);
        }
        match source.source() {
            Some(next) => source = next,
            None => return Some(Local::Transport(source.to_string())),
        }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Reads `http://host:port`; a bare `host:port` is that too.
fn parse_endpoint(text: &str) -> Result<Endpoint, Failure> {
    let wrong = |why: &str| {
        Failure::Usage(format!("--endpoint {text}: {why}; it should look like http://127.0.0.1:7770"))
    };
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    if !url.starts_with("http://") {
        return Err(wrong("only http:// is spoken"));
    }
    let endpoint = Endpoint::from_shared(url).map_err(|_| wrong("not an address"))?;
    let authority = endpoint.uri().authority().map_or("", |authority| authority.as_str());
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    match port.parse::<u16>() {
        Ok(1..) => Ok(endpoint),
        _ if port.is_empty() || port.ends_with(']') => Err(wrong("the port is missing")),
        _ => Err(wrong(&format!("{port} is no port (1 to 65535)"))),
    }
}

/// Reads every page of a list.
pub async fn every_page<T>(
    mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Failure>,
) -> Result<Vec<T>, Failure> {
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let (items, next) = page(token).await?;
        all.extend(items);
        if next.is_empty() {
            return Ok(all);
        }
        token = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_or_refused_with_what_would_be_right() {
        assert_eq!(parse_endpoint("10.0.0.1:7770").unwrap().uri().to_string(), "http://10.0.0.1:7770/");
        assert!(parse_endpoint("http://[::1]:7770").is_ok());
        for bad in ["http://h:99999", "[::1]:0", "h:x"] {
            let lines = parse_endpoint(bad).unwrap_err().lines();
            assert!(lines[0].contains("is no port") || lines[0].contains("not an address"), "{lines:?}");
        }
        assert!(parse_endpoint("h:99999").unwrap_err().lines()[0].contains("99999 is no port"));
        for bad in ["http://[::1]", "https://host:7770", "http://host", "host", "http://a b:1", ""] {
            let failure = parse_endpoint(bad).unwrap_err();
            assert_eq!(failure.exit_code(), 2, "{bad}");
            assert!(failure.lines()[0].contains("http://127.0.0.1:7770"), "{bad}");
        }
    }

    #[tokio::test]
    async fn pages_are_read_to_the_last() {
        let all = every_page(async |token| {
            Ok(match token.as_str() {
                "" => (vec![1, 2], "more".to_owned()),
                _ => (vec![3], String::new()),
            })
        })
        .await
        .unwrap();
        assert_eq!(all, [1, 2, 3]);
    }
}
