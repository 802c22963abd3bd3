//! `kilonova.capability.v1.CapabilityService`: a publisher's capabilities, streamed.

use std::sync::Arc;

use async_trait::async_trait;
use kilonova_model::Error;
use kilonova_proto::capability::v1::capability_service_server::{CapabilityService, CapabilityServiceServer};
use kilonova_proto::capability::v1::{
    RefreshCapabilitiesRequest, RefreshCapabilitiesResponse, WatchCapabilitiesRequest,
};
use kilonova_proto::types::v1::Capabilities;
use kilonova_rpc::publish::{Ask, Framed};
use kilonova_rpc::status::to_status;
use tonic::{Request, Response, Status};

use super::publisher::CapabilityPublisher;

/// The full name of the service.
pub const CAPABILITY_SERVICE: &str = "kilonova.capability.v1.CapabilityService";
/// Its stream.
pub(super) const WATCH: &str = "WatchCapabilities";

/// Where the figures come from.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Publishes what is known now.
    fn publish(&self);

    /// Asks the driver again and publishes what it says. Bounded in time.
    async fn refresh(&self) -> Result<(), Error>;
}

/// The service over one publisher. It streams what `publisher` has, as frames.
pub fn capability_service(
    publisher: CapabilityPublisher,
    source: Arc<dyn Source>,
) -> Framed<CapabilityServiceServer<Refresher>> {
    let refresher = Refresher { publisher: publisher.clone(), source };
    let watch = move |request: Request<WatchCapabilitiesRequest>| {
        let WatchCapabilitiesRequest { resume_token, heartbeat_interval } = request.get_ref();
        let ask = Ask { token: resume_token, heartbeat: heartbeat_interval.as_ref() };
        std::future::ready(publisher.subscribe(&ask).map_err(|error| to_status(&error)))
    };
    Framed::new(CapabilityServiceServer::new(refresher)).stream(WATCH, watch)
}

/// The methods of the service that are no streams.
pub struct Refresher {
    publisher: CapabilityPublisher,
    source: Arc<dyn Source>,
}

#[tonic::async_trait]
impl CapabilityService for Refresher {
    async fn refresh_capabilities(
        &self,
        _: Request<RefreshCapabilitiesRequest>,
    ) -> Result<Response<RefreshCapabilitiesResponse>, Status> {
        self.source.refresh().await.map_err(|error| to_status(&error))?;
        let capabilities = Some(Capabilities::clone(&self.publisher.current()));
        Ok(Response::new(RefreshCapabilitiesResponse { capabilities }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kilonova_model::{Reason, time};
    use kilonova_proto::capability::v1::WatchCapabilitiesResponse;
    use kilonova_proto::capability::v1::capability_service_client::CapabilityServiceClient;
    use kilonova_proto::capability::v1::watch_capabilities_response::Event;
    use kilonova_rpc::status::reason_of;
    use tonic::Streaming;

    use super::*;

    struct Nothing;

    #[async_trait]
    impl Source for Nothing {
        fn publish(&self) {}

        async fn refresh(&self) -> Result<(), Error> {
            Err(Error::new(Reason::DriverFailed, "on purpose"))
        }
    }

    type Client = CapabilityServiceClient<Framed<CapabilityServiceServer<Refresher>>>;

    /// A client that calls the service without a server between.
    fn client() -> (Client, CapabilityPublisher) {
        let publisher = CapabilityPublisher::new(Capabilities { epoch: 3, ..Default::default() });
        let service = capability_service(publisher.clone(), Arc::new(Nothing));
        (CapabilityServiceClient::new(service), publisher)
    }

    async fn watch(client: &mut Client, token: &str) -> Result<Streaming<WatchCapabilitiesResponse>, Status> {
        let request = WatchCapabilitiesRequest {
            resume_token: token.into(),
            heartbeat_interval: Some(time::duration(Duration::from_millis(1))),
        };
        Ok(client.watch_capabilities(request).await?.into_inner())
    }

    async fn event(stream: &mut Streaming<WatchCapabilitiesResponse>) -> (Event, String) {
        let message = stream.message().await.unwrap().unwrap();
        (message.event.unwrap(), message.resume_token)
    }

    #[tokio::test(start_paused = true)]
    async fn snapshot_update_heartbeat_and_end() {
        let (mut client, publisher) = client();
        let mut stream = watch(&mut client, "").await.unwrap();
        assert!(matches!(event(&mut stream).await.0, Event::Snapshot(c) if c.generation == 1));
        assert!(matches!(event(&mut stream).await.0, Event::SnapshotEnd(_)));
        publisher.publish(|c| c.enabled = true);
        publisher.publish(|c| c.disabled_reason = "x".into());
        assert!(matches!(event(&mut stream).await.0, Event::Update(c) if c.generation == 3));
        let before = tokio::time::Instant::now();
        assert!(matches!(event(&mut stream).await.0, Event::Heartbeat(_)));
        assert_eq!(before.elapsed(), Duration::from_millis(500));
        drop((client, publisher));
        let last = stream.message().await.unwrap_err();
        assert_eq!(reason_of(&last), Some(Reason::Draining));
        assert!(stream.message().await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_resumes_where_it_stood() {
        let (mut client, publisher) = client();
        let mut stream = watch(&mut client, "").await.unwrap();
        assert_eq!(event(&mut stream).await.1, "", "within a snapshot there is nothing to resume");
        let (_, token) = event(&mut stream).await;
        let mut current = watch(&mut client, &token).await.unwrap();
        assert!(matches!(event(&mut current).await.0, Event::SnapshotEnd(_)));
        publisher.publish(|c| c.enabled = true);
        let mut behind = watch(&mut client, &token).await.unwrap();
        assert!(matches!(event(&mut behind).await.0, Event::Snapshot(c) if c.generation == 2));
        publisher.publish(|c| c.epoch = 4);
        let expired = watch(&mut client, &token).await.err().unwrap();
        assert_eq!(reason_of(&expired), Some(Reason::ResumeTokenExpired));
        assert_eq!(expired.code(), tonic::Code::OutOfRange);
        assert!(matches!(event(&mut behind).await.0, Event::SnapshotEnd(_)));
        let (Event::Update(newest), token) = event(&mut behind).await else { panic!("no update") };
        assert_eq!(newest.epoch, 4);
        watch(&mut client, &token).await.unwrap();
    }
}
