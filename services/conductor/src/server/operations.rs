//! What is asked of an instance that is there.

use std::time::SystemTime;

use kilonova_model::{Error, FlavorId, ImageId, InstanceId, Reason};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::{InstanceRecord, Operation};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use prost::Message;

use super::{Conductor, checked, shown};
use crate::accept::Request as Accepted;
use crate::agents::rebuild_request;
use crate::attach;
use crate::moves::ask::{Ask, Asked as Move};
use crate::moves::evacuate::Evacuate;
use crate::once::{Change, change_once};
use crate::placed::Placed;
use crate::power::Power;
use crate::requests::{self, Named, read_id, stored};

/// What all operations on an instance are asked with.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub request_id: &'a str,
    pub project_id: &'a str,
    pub instance_id: &'a str,
    pub etag: &'a str,
}

impl Asked<'_> {
    fn named(&self) -> Result<Named<'_, InstanceId>, Error> {
        let id = read_id("instance_id", self.instance_id)?;
        Ok(Named { id, project: self.project_id, etag: self.etag })
    }
}

pub(super) fn power(kind: Kind, hard: bool) -> Operation {
    Operation { kind: kind.into(), hard, ..Default::default() }
}

impl Conductor {
    /// `message` is the request without its id.
    async fn change_instance(
        &self,
        method: &'static str,
        request: Asked<'_>,
        message: &impl Message,
        change: &impl Change<InstanceRecord>,
    ) -> Result<pb::Instance, Error> {
        let accepted = Accepted::new(method, request.project_id, request.request_id, message)?;
        let entry = change_once(&self.acceptor, &accepted, &self.instances, request.named()?, change).await?;
        Ok(shown(&entry))
    }

    /// `message` is the request without its id.
    pub(super) async fn operate(
        &self,
        method: &'static str,
        request: Asked<'_>,
        operation: Operation,
        vouched_hosts: &[String],
        message: &impl Message,
    ) -> Result<pb::Instance, Error> {
        let arrived = SystemTime::now();
        checked(request.request_id, request.project_id, |_| {})?;
        let timeout = self.config.operation_timeout.get();
        let acceptance = self.acceptance(request.request_id, arrived);
        let power = Power { operation, vouched_hosts, reach: &self.reach, timeout, acceptance };
        self.change_instance(method, request, message, &power).await
    }

    pub(super) async fn volume_of_instance(
        &self,
        method: &'static str,
        kind: Kind,
        request: Asked<'_>,
        volume_id: &str,
    ) -> Result<pb::Instance, Error> {
        let arrived = SystemTime::now();
        checked(request.request_id, request.project_id, |_| {})?;
        let volume = read_id("volume_id", volume_id)?;
        // What was asked, without the request's id.
        let message = proto::AttachVolumeRequest {
            instance_id: request.instance_id.to_owned(),
            volume_id: volume_id.to_owned(),
            etag: request.etag.to_owned(),
            ..Default::default()
        };
        let timeout = self.config.operation_timeout.get();
        let acceptance = self.acceptance(request.request_id, arrived);
        let asked =
            attach::Asked { kind, volume, volumes: &self.volumes, reach: &self.reach, timeout, acceptance };
        self.change_instance(method, request, &message, &asked).await
    }

    /// The answer to a request that was accepted before: it stays accepted, whatever became of what it names.
    async fn earlier(
        &self,
        method: &'static str,
        request: Asked<'_>,
        message: &impl Message,
    ) -> Result<Option<pb::Instance>, Error> {
        checked(request.request_id, request.project_id, |_| {})?;
        let accepted = Accepted::new(method, request.project_id, request.request_id, message)?;
        Ok(match self.acceptor.replay(&accepted).await? {
            Some(_) => Some(shown(&stored(&self.instances, request.named()?).await?)),
            None => None,
        })
    }

    /// A resize, a migration, a confirm, a revert or a rebuild.
    async fn ask(
        &self,
        method: &'static str,
        request: Asked<'_>,
        asked: Move,
        message: &impl Message,
    ) -> Result<pb::Instance, Error> {
        let arrived = SystemTime::now();
        checked(request.request_id, request.project_id, |_| {})?;
        let ask = Ask {
            asked,
            acceptor: &self.acceptor,
            reach: &self.reach,
            timeout: self.config.operation_timeout.get(),
            acceptance: self.acceptance(request.request_id, arrived),
        };
        self.change_instance(method, request, message, &ask).await
    }

    pub(super) async fn resize(
        &self,
        request: Asked<'_>,
        message: &proto::ResizeInstanceRequest,
    ) -> Result<pb::Instance, Error> {
        if let Some(instance) = self.earlier("ResizeInstance", request, message).await? {
            return Ok(instance);
        }
        let flavor = self.flavors.get(&read_id::<FlavorId>("flavor_id", &message.flavor_id)?).await?;
        let entry = stored(&self.instances, request.named()?).await?;
        let image = entry.record.image.clone().unwrap_or_default();
        requests::check_fit("flavor_id", &flavor, &image)?;
        self.ask("ResizeInstance", request, Move::Resize(flavor), message).await
    }

    pub(super) async fn migrate(
        &self,
        request: Asked<'_>,
        message: &proto::MigrateInstanceRequest,
    ) -> Result<pb::Instance, Error> {
        let asked = Move::Migrate { live: message.live, target_host: message.target_host.clone() };
        self.ask("MigrateInstance", request, asked, message).await
    }

    pub(super) async fn confirm(
        &self,
        request: Asked<'_>,
        message: &proto::ConfirmResizeRequest,
    ) -> Result<pb::Instance, Error> {
        self.ask("ConfirmResize", request, Move::Confirm, message).await
    }

    pub(super) async fn revert(
        &self,
        request: Asked<'_>,
        message: &proto::RevertResizeRequest,
    ) -> Result<pb::Instance, Error> {
        self.ask("RevertResize", request, Move::Revert, message).await
    }

    pub(super) async fn rebuild(
        &self,
        request: Asked<'_>,
        message: &proto::RebuildInstanceRequest,
    ) -> Result<pb::Instance, Error> {
        if let Some(instance) = self.earlier("RebuildInstance", request, message).await? {
            return Ok(instance);
        }
        let entry = stored(&self.instances, request.named()?).await?;
        let instance = entry.record.resource();
        let image = match message.image_id.as_str() {
            "" => entry.record.image.clone().unwrap_or_default(),
            id => self.images.get(&read_id::<ImageId>("image_id", id)?).await?,
        };
        requests::check_fit("image_id", &instance.flavor.clone().unwrap_or_default(), &image)?;
        if entry.record.image.as_ref() != Some(&image) {
            self.judge_rebuild(&entry.record, &image).await?;
        }
        self.ask("RebuildInstance", request, Move::Rebuild(image), message).await
    }

    /// Refuses an image that a scheduler does not find fit for the instance's own host.
    async fn judge_rebuild(&self, record: &InstanceRecord, image: &pb::Image) -> Result<(), Error> {
        let answer = self.callers.select_hosts(rebuild_request(record, image)).await;
        let answer = answer.map_err(|error| {
            error.error().unwrap_or_else(|| Error::new(Reason::Internal, error.to_string()))
        })?;
        if !answer.selections.is_empty() {
            return Ok(());
        }
        let summary = answer.explanation.map(|explanation| explanation.summary).unwrap_or_default();
        let host = &record.resource().host;
        let message = format!("{host}, the instance's host, is not fit for image {}: {summary}", image.id);
        Err(Error::new(Reason::NoValidHost, message).with("host", host).with("image_id", &image.id))
    }

    pub(super) async fn evacuate(
        &self,
        request: Asked<'_>,
        message: &proto::EvacuateInstanceRequest,
    ) -> Result<pb::Instance, Error> {
        let arrived = SystemTime::now();
        checked(request.request_id, request.project_id, |_| {})?;
        let evacuate = Evacuate {
            target_host: &message.target_host,
            vouched_hosts: &message.vouched_hosts,
            reach: &self.reach,
            volumes: &self.volumes,
            acceptance: self.acceptance(request.request_id, arrived),
        };
        self.change_instance("EvacuateInstance", request, message, &evacuate).await
    }
}
