//! Flavors, images and quotas: created, changed, deleted and read.

use kilonova_model::page::page_size;
use kilonova_model::{Error, FlavorId, ImageId, check};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::types::v1 as pb;

use super::pages::{next_token, read_after};
use super::{Conductor, checked};
use crate::accept::{self, Request as Accepted};
use crate::catalogue;
use crate::requests::read_id;

impl Conductor {
    pub(super) async fn create_flavor(
        &self,
        request: proto::CreateFlavorRequest,
    ) -> Result<proto::CreateFlavorResponse, Error> {
        let flavor = request.flavor.clone().unwrap_or_default();
        checked(&request.request_id, "", |check| check::flavor(check, "flavor", &flavor))?;
        let id = read_id::<FlavorId>("flavor.id", &flavor.id)?;
        let (request_id, validate_only) = (request.request_id.clone(), request.validate_only);
        let bare = proto::CreateFlavorRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("CreateFlavor", "", &request_id, &bare)?;
        let flavor = self.flavors.create(&self.acceptor, &accepted, &id, flavor, validate_only).await?;
        Ok(proto::CreateFlavorResponse { flavor: Some(flavor) })
    }

    pub(super) async fn delete_flavor(
        &self,
        request: proto::DeleteFlavorRequest,
    ) -> Result<proto::DeleteFlavorResponse, Error> {
        checked(&request.request_id, "", |_| {})?;
        let id = read_id::<FlavorId>("flavor_id", &request.flavor_id)?;
        let (request_id, allow_missing) = (request.request_id.clone(), request.allow_missing);
        let bare = proto::DeleteFlavorRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("DeleteFlavor", "", &request_id, &bare)?;
        self.flavors.delete(&self.acceptor, &accepted, &id, allow_missing).await?;
        Ok(proto::DeleteFlavorResponse {})
    }

    pub(super) async fn get_flavor(
        &self,
        request: &proto::GetFlavorRequest,
    ) -> Result<proto::GetFlavorResponse, Error> {
        let flavor = self.flavors.get(&read_id::<FlavorId>("flavor_id", &request.flavor_id)?).await?;
        Ok(proto::GetFlavorResponse { flavor: Some(flavor) })
    }

    pub(super) fn list_flavors(
        &self,
        request: &proto::ListFlavorsRequest,
    ) -> Result<proto::ListFlavorsResponse, Error> {
        let limit = page_size(request.page_size)?;
        let after = read_after::<FlavorId>("flavors", &request.page_token)?;
        let (entries, more) = self.flavors.page(after.as_ref(), limit);
        let next_page_token = next_token("flavors", &entries, more);
        let flavors = entries.iter().map(|(_, entry)| pb::Flavor::clone(&entry.record)).collect();
        Ok(proto::ListFlavorsResponse { flavors, next_page_token })
    }

    pub(super) async fn create_image(
        &self,
        request: proto::CreateImageRequest,
    ) -> Result<proto::CreateImageResponse, Error> {
        let image = request.image.clone().unwrap_or_default();
        checked(&request.request_id, "", |check| check::image(check, "image", &image))?;
        let id = read_id::<ImageId>("image.id", &image.id)?;
        let (request_id, validate_only) = (request.request_id.clone(), request.validate_only);
        let bare = proto::CreateImageRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("CreateImage", "", &request_id, &bare)?;
        let image = self.images.create(&self.acceptor, &accepted, &id, image, validate_only).await?;
        Ok(proto::CreateImageResponse { image: Some(image) })
    }

    pub(super) async fn delete_image(
        &self,
        request: proto::DeleteImageRequest,
    ) -> Result<proto::DeleteImageResponse, Error> {
        checked(&request.request_id, "", |_| {})?;
        let id = read_id::<ImageId>("image_id", &request.image_id)?;
        let (request_id, allow_missing) = (request.request_id.clone(), request.allow_missing);
        let bare = proto::DeleteImageRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("DeleteImage", "", &request_id, &bare)?;
        self.images.delete(&self.acceptor, &accepted, &id, allow_missing).await?;
        Ok(proto::DeleteImageResponse {})
    }

    pub(super) async fn get_image(
        &self,
        request: &proto::GetImageRequest,
    ) -> Result<proto::GetImageResponse, Error> {
        let image = self.images.get(&read_id::<ImageId>("image_id", &request.image_id)?).await?;
        Ok(proto::GetImageResponse { image: Some(image) })
    }

    pub(super) fn list_images(
        &self,
        request: &proto::ListImagesRequest,
    ) -> Result<proto::ListImagesResponse, Error> {
        let limit = page_size(request.page_size)?;
        let after = read_after::<ImageId>("images", &request.page_token)?;
        let (entries, more) = self.images.page(after.as_ref(), limit);
        let next_page_token = next_token("images", &entries, more);
        let images = entries.iter().map(|(_, entry)| pb::Image::clone(&entry.record)).collect();
        Ok(proto::ListImagesResponse { images, next_page_token })
    }

    pub(super) async fn update_quota(
        &self,
        request: proto::UpdateQuotaRequest,
    ) -> Result<proto::UpdateQuotaResponse, Error> {
        let bare = proto::UpdateQuotaRequest { request_id: String::new(), ..request.clone() };
        let limits = request.limits.unwrap_or_default();
        checked(&request.request_id, &request.project_id, |check| {
            check::quota_limits(check, "limits", &limits);
        })?;
        let project = accept::project(&request.project_id)?;
        let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let accepted = Accepted::new("UpdateQuota", project.as_str(), &request.request_id, &bare)?;
        catalogue::set_limits(&self.db, &self.acceptor, &accepted, &limits, &paths).await?;
        let quota = catalogue::quota(&self.acceptor, &project).await?;
        Ok(proto::UpdateQuotaResponse { quota: Some(quota) })
    }

    pub(super) async fn get_quota(
        &self,
        request: &proto::GetQuotaRequest,
    ) -> Result<proto::GetQuotaResponse, Error> {
        let project = accept::project(&request.project_id)?;
        let quota = catalogue::quota(&self.acceptor, &project).await?;
        Ok(proto::GetQuotaResponse { quota: Some(quota) })
    }
}
