//! Users at work: they create, read, list and watch through any api, and every call has to go well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{HostName, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::api::v1::flavor_service_client::FlavorServiceClient;
use kilonova_proto::api::v1::image_service_client::ImageServiceClient;
use kilonova_proto::api::v1::instance_service_client::InstanceServiceClient;
use kilonova_proto::api::v1::volume_service_client::VolumeServiceClient;
use kilonova_proto::base::v1::GetServiceInfoRequest;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::State;
use kilonova_rpc::peers::{Channel, Peers};
use kilonova_tests::waiting::until;
use parking_lot::Mutex;
use rand::Rng;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

const BETWEEN_CREATES: Duration = Duration::from_millis(50);
const BETWEEN_READS: Duration = Duration::from_millis(10);

/// What users know.
#[derive(Debug, Default)]
struct Known {
    instances: Vec<String>,
    volumes: Vec<String>,
    /// What the watch told last of each instance.
    watched: BTreeMap<String, State>,
    resumed: u32,
    calls: BTreeMap<&'static str, u64>,
    failures: Vec<String>,
}

#[derive(Clone)]
struct User {
    channel: Channel,
    known: Arc<Mutex<Known>>,
    stop: CancellationToken,
}

/// Users at work.
pub struct Traffic {
    user: User,
    peers: Peers,
    tasks: JoinSet<()>,
}

impl Traffic {
    pub fn start(peers: Peers) -> Self {
        let channel = peers.call(ServiceKind::Api);
        let user = User { channel, known: Arc::default(), stop: CancellationToken::new() };
        let mut tasks = JoinSet::new();
        for number in 0..6 {
            tasks.spawn(user.clone().creates_instances(number));
        }
        for _ in 0..2 {
            tasks.spawn(user.clone().reads());
            tasks.spawn(user.clone().lists());
        }
        tasks.spawn(user.clone().creates_volumes());
        tasks.spawn(user.clone().watches());
        Self { user, peers, tasks }
    }

    /// Creates a flavor and an image first.
    pub async fn start_seeding(peers: Peers) -> Self {
        let channel = peers.call(ServiceKind::Api).wait_for_ready();
        until("the flavor is created", || async {
            let flavor =
                pb::Flavor { id: "small".into(), vcpus: 1, ram_mib: 64, disk_gib: 1, ..Default::default() };
            let request = api::CreateFlavorRequest { flavor: Some(flavor), ..Default::default() };
            FlavorServiceClient::new(channel.clone()).create_flavor(request).await.ok()
        })
        .await;
        let image = pb::Image { id: "cirros".into(), ..Default::default() };
        let request = api::CreateImageRequest { image: Some(image), ..Default::default() };
        ImageServiceClient::new(channel.clone()).create_image(request).await.unwrap();
        Self::start(peers)
    }

    /// Waits until calls of every kind have gone well since now.
    pub async fn flows(&self) {
        let before = self.user.known.lock().calls.clone();
        until("calls of every kind go well", || async {
            let calls = &self.user.known.lock().calls;
            let kinds = ["create", "get", "list", "volume"];
            let more = |kind: &&str| calls.get(kind).copied() > before.get(kind).copied().or(Some(0));
            kinds.iter().all(more).then_some(())
        })
        .await;
        self.nothing_failed();
    }

    /// Waits until a member says that it is ready.
    pub async fn answers(&self, kind: ServiceKind, host: &str) {
        let channel = self.peers.call_host(kind, &HostName::parse(host).unwrap());
        until(&format!("{host} is ready"), || async {
            let mut client = BaseServiceClient::new(channel.clone());
            let info = client.get_service_info(GetServiceInfoRequest::default()).await.ok()?.into_inner();
            info.ready.then_some(())
        })
        .await;
    }

    fn nothing_failed(&self) {
        let known = self.user.known.lock();
        assert_eq!(known.failures.first(), None, "{} failed of {:?}", known.failures.len(), known.calls);
    }

    /// Everything created is there in the end, and the watch told so.
    pub async fn end(mut self) {
        let instances = InstanceServiceClient::new(self.user.channel.clone());
        let volumes = VolumeServiceClient::new(self.user.channel.clone());
        let (created, made) = {
            let known = self.user.known.lock();
            (known.instances.clone(), known.volumes.clone())
        };
        for id in &created {
            until(&format!("{id} is ACTIVE"), || async {
                let request = api::GetInstanceRequest { instance_id: id.clone(), ..Default::default() };
                let instance = instances.clone().get_instance(request).await.ok()?.into_inner().instance?;
                assert_ne!(
                    instance.state(),
                    State::Error,
                    "{:?}",
                    (instance.fault, instance.failed_attempts)
                );
                (instance.state() == State::Active).then_some(())
            })
            .await;
        }
        for id in &made {
            until(&format!("{id} is AVAILABLE"), || async {
                let request = api::GetVolumeRequest { volume_id: id.clone(), ..Default::default() };
                let volume = volumes.clone().get_volume(request).await.ok()?.into_inner().volume?;
                assert_ne!(volume.state(), pb::volume::State::Error, "{:?}", volume.fault);
                (volume.state() == pb::volume::State::Available).then_some(())
            })
            .await;
        }
        until("the watch has told of every instance", || async {
            let known = self.user.known.lock();
            created.iter().all(|id| known.watched.get(id) == Some(&State::Active)).then_some(())
        })
        .await;
        self.user.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.nothing_failed();
        let known = self.user.known.lock();
        let distinct: BTreeSet<_> = created.iter().collect();
        assert_eq!(distinct.len(), created.len(), "no id was given twice");
        println!("{:?}, the watch was resumed {} times", known.calls, known.resumed);
    }
}

impl User {
    fn note<T>(&self, kind: &'static str, result: Result<T, Status>) -> Option<T> {
        let mut known = self.known.lock();
        match result {
            Ok(value) => {
                *known.calls.entry(kind).or_default() += 1;
                Some(value)
            }
            Err(status) => {
                known.failures.push(format!("{kind}: {:?}: {}", status.code(), status.message()));
                None
            }
        }
    }

    async fn creates_instances(self, number: u32) {
        let mut client = InstanceServiceClient::new(self.channel.clone());
        for count in 0.. {
            let spec = pb::InstanceSpec {
                name: format!("vm-{number}-{count}"),
                flavor_id: "small".into(),
                image_id: "cirros".into(),
                ..Default::default()
            };
            let request_id = format!("create-{number}-{count}");
            let request = api::CreateInstanceRequest {
                instance: Some(spec),
                count: 1,
                request_id,
                ..Default::default()
            };
            if let Some(answer) = self.note("create", client.create_instance(request).await) {
                let ids = answer.into_inner().instances.into_iter().map(|instance| instance.id);
                self.known.lock().instances.extend(ids);
            }
            if self.pauses(BETWEEN_CREATES).await {
                return;
            }
        }
    }

    async fn creates_volumes(self) {
        let mut client = VolumeServiceClient::new(self.channel.clone());
        for count in 0.. {
            let spec = pb::VolumeSpec { name: format!("data-{count}"), size_gib: 1, ..Default::default() };
            let request_id = format!("volume-{count}");
            let request = api::CreateVolumeRequest { volume: Some(spec), request_id, ..Default::default() };
            if let Some(answer) = self.note("volume", client.create_volume(request).await) {
                self.known.lock().volumes.extend(answer.into_inner().volume.map(|volume| volume.id));
            }
            if self.pauses(BETWEEN_CREATES).await {
                return;
            }
        }
    }

    async fn reads(self) {
        let mut client = InstanceServiceClient::new(self.channel.clone());
        loop {
            let id = {
                let known = self.known.lock();
                let any =
                    (!known.instances.is_empty()).then(|| rand::rng().random_range(0..known.instances.len()));
                any.map(|any| known.instances[any].clone())
            };
            if let Some(instance_id) = id {
                let request = api::GetInstanceRequest { instance_id, ..Default::default() };
                self.note("get", client.get_instance(request).await);
            }
            if self.pauses(BETWEEN_READS).await {
                return;
            }
        }
    }

    async fn lists(self) {
        let mut client = InstanceServiceClient::new(self.channel.clone());
        loop {
            let request = api::ListInstancesRequest { page_size: 20, ..Default::default() };
            self.note("list", client.list_instances(request).await);
            if self.pauses(BETWEEN_READS).await {
                return;
            }
        }
    }

    /// Goes on with the token it has whenever the stream ends.
    async fn watches(self) {
        use api::watch_instances_response::Event;
        let mut client = InstanceServiceClient::new(self.channel.clone());
        let mut token = String::new();
        while !self.stop.is_cancelled() {
            let request = api::WatchInstancesRequest { resume_token: token.clone(), ..Default::default() };
            let opened = client.watch_instances(request).await;
            let Some(stream) = self.note("watch", opened) else { continue };
            let mut stream = stream.into_inner();
            loop {
                let message = tokio::select! {
                    message = stream.message() => message,
                    () = self.stop.cancelled() => return,
                };
                match message {
                    Ok(Some(message)) => {
                        let mut known = self.known.lock();
                        if let Some(Event::Snapshot(instance) | Event::Update(instance)) = message.event {
                            let state = instance.state();
                            known.watched.insert(instance.id, state);
                        }
                        if !message.resume_token.is_empty() {
                            token = message.resume_token;
                        }
                    }
                    // An api that stops ends its streams; that is no failure.
                    Err(status) if status.code() != Code::Unavailable => {
                        self.note::<()>("watched", Err(status));
                        break;
                    }
                    Ok(None) | Err(_) => break,
                }
            }
            self.known.lock().resumed += 1;
        }
    }

    /// Whether this is the end.
    async fn pauses(&self, pause: Duration) -> bool {
        tokio::select! {
            () = sleep(pause) => false,
            () = self.stop.cancelled() => true,
        }
    }
}
